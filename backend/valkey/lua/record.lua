-- The record of one execution: loading core, changing it, and saving what has
-- changed together with every index, in one step. docs/valkey-layout.md names
-- the fields.
--
-- r.f holds the fields as loaded and changed, r.ch which of them changed, r.tx
-- texts to be written, r.ev events to be appended. A transition changes r and
-- save writes it; until save nothing is written.

local PUBLIC = {
  W = 'waiting', D = 'delayed', C = 'waiting_children', B = 'rate_limited', Q = 'rate_limited',
  L = 'waiting', O = 'waiting', A = 'active', X = 'active', V = 'active', S = 'suspended',
  c = 'completed', f = 'failed', x = 'cancelled', e = 'expired', k = 'skipped',
}
local OUTCOME = { c = 'success', f = 'failed', x = 'cancelled', e = 'expired', k = 'skipped' }
local BLOCKED = { C = 'dependencies', B = 'budget', Q = 'quota', L = 'lane_state', O = 'operator' }
local ELIGIBILITY = {
  W = 'eligible_now', D = 'not_eligible_until_time', C = 'blocked_by_dependencies', B = 'blocked_by_budget',
  Q = 'blocked_by_quota', L = 'blocked_by_lane_state', O = 'blocked_by_operator',
}
local OWNERSHIP = { A = 'leased', X = 'lease_expired_reclaimable', V = 'lease_revoked' }
local LEGAL = {
  Wf = true, Wi = true, Wt = true, Wp = true, Df = true, Di = true, Dt = true, Dp = true,
  Cf = true, Ci = true, Ct = true, Cp = true, Bf = true, Bi = true, Bt = true, Bp = true,
  Qf = true, Qi = true, Qt = true, Qp = true, Lf = true, Li = true, Lt = true, Lp = true,
  Of = true, Oi = true, Ot = true, Op = true, Ar = true, Xi = true, Vi = true, Si = true,
  cT = true, fT = true, xT = true, xf = true, xp = true, eT = true, ef = true, ep = true,
  kn = true, kT = true, kp = true,
}

-- EVENTS_AN_ENTRY bounds what a reader of one event has to read.
local EVENTS_AN_ENTRY = 16

local function phase_of(letter)
  if ELIGIBILITY[letter] then
    return 'runnable'
  end
  if OWNERSHIP[letter] then
    return 'active'
  end
  return letter == 'S' and 'suspended' or 'terminal'
end

-- letter is the first of st: where the execution stands; second is what its
-- attempt does.
local function letter(r)
  return string.sub(r.f.st, 1, 1)
end

local function second(r)
  return string.sub(r.f.st, 2, 2)
end

-- grant_open reports whether a grant has not been acted upon: it hides the
-- execution. Third letter of the grant field: 'l' once lapsed, '-' before.
local function grant_open(f)
  return f.grant ~= nil and string.byte(f.grant, 3) ~= 108
end

-- grant_parts returns kind, issuer, expiry and issue of the grant.
local function grant_parts(f)
  local kind, issuer, expires, issued = string.match(f.grant, '^(.)(.).:(%d+):(%d+)$')
  return kind, issuer, tonumber(expires), tonumber(issued)
end

local function live_grant(f, at)
  if not grant_open(f) then
    return false
  end
  local _, _, expires = grant_parts(f)
  return at < expires
end

local function at_cap(f)
  return N(f.reclaims, 0) >= N(f.mrc, 1000)
end

local function retention(f)
  return N(f.ret, MS_DAY)
end

-- place says where an execution stands: its order, whether claimers see it, the
-- kind it is blocked by, who holds it, and when a tick must look.
local function place(f)
  local at = string.sub(f.st, 1, 1)
  local p = { score = f.created_at - N(f.priority, 0) * PRIORITY_STEP }
  local due
  if at == 'A' then
    due = sooner(N(f.lx), N(f.attempt_due))
    p.holder = f.wi
  elseif at == 'X' or at == 'V' then
    due = sooner(N(f.attempt_due), N(f.rnb))
    if not f.hold and at_cap(f) then
      due = sooner(due, N(at == 'V' and f.ra or f.xa))
    end
    p.offered = not f.hold and not f.rnb and not grant_open(f)
    p.lost = f.wi
  elseif at == 'W' then
    p.offered = not grant_open(f)
  elseif at == 'D' then
    due = N(f.delay_until)
  elseif at == 'S' then
    due = N(f.sto)
  elseif OUTCOME[at] then
    p.due = f.completed_at + retention(f)
    return p
  else
    p.blocked = BLOCKED[at]
  end
  due = sooner(sooner(due, N(f.deadline)), N(f.wpx))
  if grant_open(f) then
    local _, _, expires = grant_parts(f)
    due = sooner(due, expires)
  end
  p.due = due
  return p
end

-- record_of makes a record of the fields of core; nil and a refusal when they
-- do not make sense.
local function record_of(tag, e, flat)
  local f = {}
  for i = 1, #flat, 2 do
    if flat[i + 1] ~= '' then
      f[flat[i]] = flat[i + 1]
    end
  end
  if not LEGAL[f.st or ''] then
    return nil, refusal('corrupt_record', 'lifecycle_phase', 'is not one that is stored')
  end
  if not tonumber(f.created_at or '') then
    return nil, refusal('corrupt_record', 'created_at', 'is missing')
  end
  if PUBLIC[string.sub(f.st, 1, 1)] ~= f.public_state then
    return nil, refusal('corrupt_record', 'public_state', 'is not one that is stored')
  end
  return { tag = tag, e = e, f = f, ch = {}, was = place(f), st0 = f.st, br0 = f.blocking_reason }
end

-- record_load reads an execution; nil and a refusal without one.
local function record_load(tag, e)
  local flat = redis.call('HGETALL', exec_key(tag, e, 'core'))
  if #flat == 0 then
    return nil, refusal('execution_not_found')
  end
  return record_of(tag, e, flat)
end

-- put changes a field; nil and the empty string remove it. Long values go to the
-- text hash, free text already from 41 bytes on.
local function put(r, field, value)
  if value == '' then
    value = nil
  end
  local f = r.f
  if f[field] == '@' then
    r.tx = r.tx or {}
    r.tx[field] = false
  end
  if value ~= nil and (#value > 64 or string.byte(value) == 64) then
    r.tx = r.tx or {}
    r.tx[field] = value
    value = '@'
  end
  if f[field] ~= value or value == '@' then
    f[field] = value
    r.ch[field] = true
  end
end

local function put_text(r, field, value)
  if value and #value > 40 and #value <= 64 then
    if r.f[field] ~= '@' then
      r.ch[field] = true
    end
    r.tx = r.tx or {}
    r.tx[field] = value
    r.f[field] = '@'
    return
  end
  put(r, field, value)
end

local function drop(r, field, ...)
  if r.f[field] then
    put(r, field, nil)
  end
  if ... then
    return drop(r, ...)
  end
end

-- get reads a field, from the text hash where it lies there.
local function get(r, field)
  local v = r.f[field]
  if v ~= '@' then
    return v
  end
  if r.tx and r.tx[field] then
    return r.tx[field]
  end
  return redis.call('HGET', exec_key(r.tag, r.e, 'text'), field) or ''
end

local function flag(r, name)
  return r.f.flags ~= nil and string.find(r.f.flags, name, 1, true) ~= nil
end

local function set_flag(r, name)
  if not flag(r, name) then
    put(r, 'flags', (r.f.flags or '') .. name)
  end
end

local function set_state(r, st)
  put(r, 'st', st)
  put(r, 'public_state', PUBLIC[string.sub(st, 1, 1)])
end

-- requirement is the required capabilities, sorted and joined by commas.
local function requirement(r)
  if not flag(r, 'c') then
    return ''
  end
  local descriptor = redis.call('HGET', lane_key(r.tag, r.f.lane_id, 'buckets'), r.f.bk)
  if descriptor then
    return string.match(descriptor, '\n(.*)$') or ''
  end
  local policy = r.policy or {}
  local routing = policy.routing_requirements or {}
  return table.concat(routing.required_capabilities or {}, ',')
end

-- policy_of returns the frozen policy. One that lies near the beginning of the
-- definition, as most do, comes with its header.
local function policy_of(r)
  if r.policy then
    return r.policy
  end
  local key = exec_key(r.tag, r.e, 'def')
  local head = redis.call('GETRANGE', key, 64, 575)
  local kind, creator, encoding, idem, size, at = string.match(head, '^(%d+) (%d+) (%d+) (%d+) (%d+)\n()')
  if not kind then
    return {}
  end
  local from = (at - 1) + kind + creator + encoding + idem
  local text = string.sub(head, from + 1, from + size)
  if #text < tonumber(size) then
    text = redis.call('GETRANGE', key, 64 + from, 64 + from + size - 1)
  end
  r.policy = text == '{}' and {} or cjson.decode(text)
  return r.policy
end

local function tags_json(r)
  if not flag(r, 't') then
    return ''
  end
  local flat = redis.call('HGETALL', exec_key(r.tag, r.e, 'tags'))
  if #flat == 0 then
    return ''
  end
  local tags = {}
  for i = 1, #flat, 2 do
    tags[flat[i]] = flat[i + 1]
  end
  return cjson.encode(tags)
end

-- envelope begins an event: what every kind has. With no attempt yet, index and
-- id are empty.
local function envelope(r, kind, at)
  local f = r.f
  local attempts = N(f.attempts, 0)
  local index = attempts > 0 and S(attempts - 1) or ''
  local id = attempts > 0 and (f.aid or '') or ''
  return kind .. '\n' .. r.e .. '\n' .. get(r, 'namespace') .. '\n' .. f.lane_id .. '\n' .. (f.flow_id or '') .. '\n' ..
    S(at) .. '\n' .. index .. '\n' .. id .. '\n' .. tags_json(r)
end

local function add_event(r, feed, v)
  r.ev = r.ev or {}
  r.ev[#r.ev + 1] = feed
  r.ev[#r.ev + 1] = v
end

-- lease_event notes an event of the leases feed about the lease in core.
local function lease_event(r, kind, at, reason, expires, revoked_by, prev)
  if not leases_on then
    return
  end
  local f = r.f
  prev = prev or { '', '', '', '' }
  add_event(r, 'leases', envelope(r, kind, at) .. '\n' .. (f.lease_id or '') .. '\n' .. (f.epoch or '0') .. '\n' ..
    (get(r, 'worker') or '') .. '\n' .. (get(r, 'wi') or '') .. '\n' .. (expires or '') .. '\n' ..
    (revoked_by or '') .. '\n' .. prev[1] .. '\n' .. prev[2] .. '\n' .. prev[3] .. '\n' .. prev[4] .. '\n' .. (reason or ''))
end

-- cut shortens a text to at most limit bytes at a character boundary.
local function cut(s, limit)
  if #s <= limit then
    return s
  end
  while limit > 0 do
    local b = string.byte(s, limit + 1)
    if b < 128 or b >= 192 then
      break
    end
    limit = limit - 1
  end
  return string.sub(s, 1, limit)
end

-- completion notes the one event of a transition into the terminal phase.
local function completion(r, cause, at, size)
  local f = r.f
  local outcome = OUTCOME[letter(r)]
  local category, reason = '', ''
  if outcome == 'failed' or outcome == 'expired' then
    category, reason = get(r, 'failure_category') or '', cut(get(r, 'failure_reason') or '', 1024)
  end
  local v = envelope(r, 'completed', at) .. '\n' .. outcome .. '\n' .. (f.replays or '0') .. '\n' .. cause .. '\n' ..
    (size or '') .. '\n' .. category .. '\n' .. reason
  add_event(r, 'completions', v)
  r.settled = v
end

-- offer makes sure that the bucket is registered before a member enters it.
local function offer(r, score)
  local f = r.f
  local buckets = lane_key(r.tag, f.lane_id, 'buckets')
  if redis.call('HEXISTS', buckets, f.bk) == 0 then
    local routing = flag(r, 'c') and policy_of(r).routing_requirements or {}
    redis.call('HSET', buckets, f.bk, get(r, 'namespace') .. '\n' .. table.concat(routing.required_capabilities or {}, ','))
    redis.call('HINCRBY', buckets, 'v', 1)
  end
  redis.call('ZADD', lane_key(r.tag, f.lane_id, 'el:' .. f.bk), score, r.e)
end

-- move brings the indexes from one place to another.
local function move(r, from, to)
  local tag, e, f = r.tag, r.e, r.f
  if to.offered and (not from.offered or from.score ~= to.score) then
    offer(r, to.score)
  elseif from.offered and not to.offered then
    redis.call('ZREM', lane_key(tag, f.lane_id, 'el:' .. f.bk), e)
  end
  if to.blocked ~= from.blocked then
    if from.blocked then
      redis.call('ZREM', lane_key(tag, f.lane_id, 'blocked:' .. from.blocked), e)
    end
    if to.blocked then
      redis.call('ZADD', lane_key(tag, f.lane_id, 'blocked:' .. to.blocked), to.score, e)
    end
  end
  local was, is = from.holder, to.holder
  if to.holder ~= from.holder or to.lost ~= from.lost then
    if is then
      redis.call('HSET', lane_key(tag, f.lane_id, 'active'), e, get(r, 'wi'))
    elseif to.lost then
      redis.call('HSET', lane_key(tag, f.lane_id, 'active'), e, '-' .. get(r, 'wi'))
    elseif was or from.lost then
      redis.call('HDEL', lane_key(tag, f.lane_id, 'active'), e)
    end
  end
  if to.due ~= from.due then
    redis.call('ZADD', 'ff:idx:' .. tag .. ':due', to.due or '+inf', e)
  end
end

-- stamp sets the instants of the change. Readers take the latest of all instants
-- that a record holds, so nothing older needs to be removed.
local function stamp(r, at)
  local f = r.f
  if f.st ~= r.st0 or f.blocking_reason ~= r.br0 then
    if not OUTCOME[letter(r)] and f.started_at ~= S(at) then
      put(r, 'updated_at', S(at))
    end
    return
  end
  put(r, 'mutated_at', S(at))
end

-- check returns a refusal when the record breaks a validity rule.
local function check(r)
  local f = r.f
  local at = letter(r)
  if not LEGAL[f.st] then
    return refusal('invariant_violation', 'V10', 'state ' .. f.st .. ' of ' .. r.e)
  end
  if at == 'A' and not (f.lease_id and f.aid and f.wi and f.lx) then
    return refusal('invariant_violation', 'V8', 'leased without lease, attempt, instance or expiry: ' .. r.e)
  end
  return nil
end

-- trim_feed forgets the oldest events of a feed once a hundred numbers have been
-- given out: a trim at each event would cost as much as the event.
local function trim_feed(key, before, last)
  if math.floor(last / 100) > math.floor(before / 100) then
    redis.call('XTRIM', key, 'MINID', '~', '0-' .. S(math.max(last - 9999, 0)))
  end
end

-- feed_event appends an event to a feed.
local function feed_event(tag, feed, v)
  local key = 'ff:feed:' .. tag .. ':' .. feed
  local id = redis.call('XADD', key, '0-*', 'v', v)
  if string.sub(id, -2) == '00' then
    local last = tonumber(string.sub(id, 3))
    trim_feed(key, last - 1, last)
  end
end

-- feed_events appends the events of a feed that a batch has collected. The first is
-- an entry of its own, which tells the number; those behind it go many to an entry,
-- whose id is the number of the last.
local function feed_events(tag, feed, batch)
  local list = batch[feed]
  if not list then
    return
  end
  local key = 'ff:feed:' .. tag .. ':' .. feed
  local n = list.n / 2
  local first = tonumber(string.sub(redis.call('XADD', key, '0-*', 'v', list[2]), 3))
  for i = 2, n, EVENTS_AN_ENTRY do
    local last = math.min(i + EVENTS_AN_ENTRY - 1, n)
    redis.call('XADD', key, '0-' .. S(first + last - 1), unpack(list, 2 * i - 1, 2 * last))
  end
  trim_feed(key, first - 1, first + n - 1)
end

-- collect_event appends an event, or notes it for feed_events.
local function collect_event(batch, tag, feed, v)
  if batch.single then
    return feed_event(tag, feed, v)
  end
  local list = batch[feed]
  if not list then
    list = { n = 0 }
    batch[feed] = list
  end
  append2(list, 'v', v)
end

-- append writes the events that were noted.
local function append(r)
  if not r.ev then
    return
  end
  local grown = {}
  for i = 1, #r.ev, 2 do
    feed_event(r.tag, r.ev[i], r.ev[i + 1])
    grown[r.ev[i]] = true
  end
  if grown.leases and not r.settled and not r.paused then
    redis.call('SPUBLISH', 'ff:feed:' .. r.tag, 'leases')
  end
  if grown.signals then
    redis.call('SPUBLISH', 'ff:feed:' .. r.tag, 'signals')
  end
end

-- save writes what has changed: fields, texts, indexes, events, wake-ups. It
-- returns a refusal, and has written nothing, when the change breaks a rule.
-- r.offer then tells of what may be claimed since: lane, namespace, required
-- capabilities, score and e, a line each.
local function save(r, at)
  stamp(r, at)
  local broken = check(r)
  if broken then
    return broken
  end
  local f = r.f
  if r.tx then
    local text = exec_key(r.tag, r.e, 'text')
    for field, value in pairs(r.tx) do
      if value then
        redis.call('HSET', text, field, value)
        set_flag(r, 'x')
      else
        redis.call('HDEL', text, field)
      end
    end
  end
  local set, del = {}, {}
  for field in pairs(r.ch) do
    if f[field] ~= nil then
      set[#set + 1] = field
      set[#set + 1] = f[field]
    else
      del[#del + 1] = field
    end
  end
  local core = exec_key(r.tag, r.e, 'core')
  if #del > 0 then
    redis.call('HDEL', core, unpack(del))
  end
  if #set > 0 then
    redis.call('HSET', core, unpack(set))
  end
  local to = place(f)
  move(r, r.was, to)
  append(r)
  if r.offered and to.offered then
    local namespace, caps = get(r, 'namespace'), requirement(r)
    wake(r.tag, f.lane_id, namespace, caps, to.score, r.e)
    r.offer = f.lane_id .. '\n' .. namespace .. '\n' .. caps .. '\n' .. string.format('%d', to.score) .. '\n' .. r.e
  end
  if r.settled then
    redis.call('SPUBLISH', 'ff:done:' .. r.tag, r.settled)
  elseif r.paused then -- suspended: settled, though not ended
    redis.call('SPUBLISH', 'ff:done:' .. r.tag, '\31' .. r.e)
  end
  -- The record may go through another step in the same call.
  r.was, r.st0, r.br0, r.ch, r.tx, r.ev, r.settled, r.paused = to, f.st, f.blocking_reason, {}, nil, nil, nil, nil
  return nil
end
