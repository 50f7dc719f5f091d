-- What falls due, and the repair of indexes. (Specification 01, section 9.)

local function lapse_grant(r, at)
  drop_grant(r, at)
  r.offered = true
end

-- run_due does the first duty whose instant has come, in the order of
-- specification 01, section 9. It returns the duty's name, nil when nothing is
-- due.
local function run_due(r, at, draw)
  local f = r.f
  local where = letter(r)
  if OUTCOME[where] then
    if f.completed_at + retention(f) <= at then
      return 'retention'
    end
    return nil
  end
  if f.deadline and tonumber(f.deadline) <= at then
    expire_deadline(r, at)
    return 'execution_deadline'
  end
  local owned = OWNERSHIP[where]
  if owned and f.attempt_due and tonumber(f.attempt_due) <= at then
    expire_attempt(r, at, draw)
    return 'attempt_timeout'
  end
  if where == 'S' and f.sto and tonumber(f.sto) <= at then
    wait.expire_suspension(r, at)
    return 'suspension_timeout'
  end
  if overdue(r, at) then
    mark_lapsed(r, at)
    return 'lease_expiry'
  end
  if lost(r) and not f.hold and at_cap(f) then
    local refused = end_at_cap(r, at)
    if string.sub(refused, 2, 21) ~= 'reclaim_cap_exceeded' then
      return 'lease_expiry', refused
    end
    return 'lease_expiry'
  end
  if lost(r) and f.rnb and tonumber(f.rnb) <= at then
    drop(r, 'rnb')
    r.offered = true
    return 'lease_expiry'
  end
  if grant_open(f) then
    local _, _, expires = grant_parts(f)
    if expires <= at then
      lapse_grant(r, at)
      return 'grant_lapse'
    end
  end
  if where == 'D' and tonumber(f.delay_until) <= at then
    promote_delayed(r, at)
    return 'delayed_promotion'
  end
  if f.wpx and tonumber(f.wpx) <= at and wait.expire_waitpoints(r, at) then
    return 'waitpoint_expiry'
  end
  return nil
end

-- tell describes for the server what a step of a tick led to.
local function tell(r, out)
  if OUTCOME[letter(r)] then
    out[#out + 1] = 's' .. r.tag .. ' ' .. r.e
  elseif r.offer then
    out[#out + 1] = 'o' .. r.tag .. ' ' .. r.offer
  end
  r.offer = nil
end

-- FAILED_PAUSE is how long a tick leaves an execution alone that it could not
-- act upon.
local FAILED_PAUSE = 2500

-- tick_one acts on one due execution until nothing of it is due. It returns false
-- when a step failed.
local function tick_one(tag, e, at, draw, counts, out)
  local due = 'ff:idx:' .. tag .. ':due'
  local r, refused = record_load(tag, e)
  if not r then
    if refused == '!execution_not_found' then
      redis.call('ZREM', due, e)
      return true
    end
    redis.call('ZADD', due, at + FAILED_PAUSE, e)
    return false
  end
  for _ = 1, 8 do
    local name, failed = run_due(r, at, draw)
    if not name then
      redis.call('ZADD', due, place(r.f).due or '+inf', e)
      return true
    end
    if name == 'retention' then
      purge(r, at)
      counts[name] = (counts[name] or 0) + 1
      return true
    end
    failed = failed or commit(r, at)
    if failed then
      redis.call('ZADD', due, at + FAILED_PAUSE, e)
      return false
    end
    counts[name] = (counts[name] or 0) + 1
    tell(r, out)
    r.offered = nil
  end
  return true
end

-- next_due is the instant at which a tick must look at the partition next, nil for
-- never.
local function next_due(tag)
  local first = redis.call('ZRANGE', 'ff:idx:' .. tag .. ':due', 0, 0, 'WITHSCORES')
  local score = first[2] and tonumber(first[2])
  if score and score < 9e18 then
    return score
  end
  return nil
end

-- tick acts on what is due in one partition, adds to the counts of t, and returns
-- the next instant. With nothing due it is one command.
local function tick(tag, limit, t)
  local next_at = next_due(tag)
  if not next_at or next_at > t.at then
    return next_at
  end
  local list = redis.call('ZRANGE', 'ff:idx:' .. tag .. ':due', '-inf', t.at, 'BYSCORE', 'LIMIT', 0, limit)
  for i, e in ipairs(list) do
    if not tick_one(tag, e, t.at, (t.draw + i * 0.6180339887) % 1, t.counts, t.told) then
      t.errors = t.errors + 1
    end
  end
  t.examined = t.examined + #list
  return next_due(tag)
end

-- ff_tick (also in a full store: what it purges makes room)
-- KEYS 1 routing key
-- ARGV limit, draw (number in [0, 1) for jitters), then the tags of other
--      partitions to look at as well (on one node only)
-- Returns {examined, errors, 1 when more may be due, next instant or '', number of
--      duties, then duty and count for each, then what was led to: 's<tag> <e>'
--      settled, 'o<tag> <offer>' offered, as save tells of one}.
redis.register_function{ function_name = 'ff_tick', flags = { 'allow-oom' }, callback = function(keys, a)
  local limit = tonumber(a[1])
  local t = { at = now(), draw = tonumber(a[2]), counts = {}, told = {}, examined = 0, errors = 0 }
  local next_at = tick(enter(keys), limit, t)
  for i = 3, #a do
    if t.examined >= limit then
      break
    end
    next_at = sooner(next_at, tick(a[i], limit - t.examined, t))
  end
  local names = {}
  for name, n in pairs(t.counts) do
    names[#names + 1] = name
    names[#names + 1] = S(n)
  end
  local out = { S(t.examined), S(t.errors), t.examined >= limit and '1' or '0', next_at and S(next_at) or '', S(#names / 2) }
  for _, v in ipairs(names) do
    out[#out + 1] = v
  end
  for _, v in ipairs(t.told) do
    out[#out + 1] = v
  end
  return out
end }

-- ff_lapse_grants
-- KEYS 1 routing key
-- ARGV none
-- Acts on the grants of the partition that have lapsed, and on nothing else that is
-- due.
-- Returns what was offered again, as ff_tick tells it.
redis.register_function('ff_lapse_grants', function(keys)
  local tag, at = enter(keys), now()
  local told = {}
  for _, e in ipairs(redis.call('ZRANGE', 'ff:idx:' .. tag .. ':due', '-inf', at, 'BYSCORE', 'LIMIT', 0, 100)) do
    local r = record_load(tag, e)
    if r and grant_open(r.f) and not live_grant(r.f, at) then
      lapse_grant(r, at)
      if not commit(r, at) then
        tell(r, told)
      end
    end
  end
  return told
end)

-- audit_one puts an execution where its record says and takes it out of
-- everywhere else. It returns how many entries were wrong.
local function audit_one(tag, e)
  local due = 'ff:idx:' .. tag .. ':due'
  local r, refused = record_load(tag, e)
  if not r then
    if refused == '!execution_not_found' then
      local n = redis.call('ZREM', due, e)
      for _, lane in ipairs(redis.call('SMEMBERS', 'ff:idx:' .. tag .. ':lanes')) do
        n = n + redis.call('HDEL', lane_key(tag, lane, 'active'), e)
        for _, kind in pairs(BLOCKED) do
          n = n + redis.call('ZREM', lane_key(tag, lane, 'blocked:' .. kind), e)
        end
      end
      return n, 'gone'
    end
    return 0, refused
  end
  local f = r.f
  local p = place(f)
  local wrong = 0
  local function score_of(key)
    local s = redis.call('ZSCORE', key, e)
    if type(s) == 'string' then
      s = tonumber(s)
    end
    return s or nil
  end
  local entry = redis.call('ZSCORE', due, e)
  local stands = entry and (type(entry) == 'string' and tonumber(entry) or entry)
  -- due may be earlier than the truth, never later.
  if not entry or (p.due and (not stands or stands > p.due)) then
    redis.call('ZADD', due, p.due or '+inf', e)
    wrong = wrong + 1
  end
  local el = lane_key(tag, f.lane_id, 'el:' .. f.bk)
  local at_el = score_of(el)
  if p.offered and at_el ~= p.score then
    offer(r, p.score)
    wrong = wrong + 1
    wake(tag, f.lane_id, get(r, 'namespace'), requirement(r), p.score, e)
  elseif not p.offered and at_el then
    redis.call('ZREM', el, e)
    wrong = wrong + 1
  end
  for _, kind in pairs(BLOCKED) do
    local key = lane_key(tag, f.lane_id, 'blocked:' .. kind)
    local there = score_of(key)
    if p.blocked == kind and there ~= p.score then
      redis.call('ZADD', key, p.score, e)
      wrong = wrong + 1
    elseif p.blocked ~= kind and there then
      redis.call('ZREM', key, e)
      wrong = wrong + 1
    end
  end
  local active = lane_key(tag, f.lane_id, 'active')
  local want = p.holder and get(r, 'wi') or p.lost and '-' .. get(r, 'wi') or false
  local has = redis.call('HGET', active, e)
  if has ~= want then
    if want then
      redis.call('HSET', active, e, want)
    else
      redis.call('HDEL', active, e)
    end
    wrong = wrong + 1
  end
  return wrong, check(r)
end

-- ff_audit_execution (batch)
-- KEYS 1 routing key
-- ARGV e, ...
-- Returns per item '<entries put right> <violation, gone or nothing>'.
redis.register_function('ff_audit_execution', function(keys, a)
  local tag = enter(keys)
  local out = {}
  for _, e in ipairs(a) do
    local wrong, what = audit_one(tag, e)
    out[#out + 1] = S(wrong) .. ' ' .. (what or '')
  end
  return out
end)

-- ff_audit_strays
-- KEYS 1 routing key
-- ARGV limit
-- Looks at up to limit members of each bucket, blocked order and active hash, and
-- returns those that due does not know: executions whose entry is lost, or
-- entries whose execution is.
redis.register_function{ function_name = 'ff_audit_strays', flags = { 'no-writes' }, callback = function(keys, a)
  local tag = enter(keys)
  local due = 'ff:idx:' .. tag .. ':due'
  local last = tonumber(a[1]) - 1
  local out = {}
  local function look(members)
    for _, e in ipairs(members) do
      if not redis.call('ZSCORE', due, e) then
        out[#out + 1] = e
      end
    end
  end
  for _, lane in ipairs(redis.call('SMEMBERS', 'ff:idx:' .. tag .. ':lanes')) do
    for _, bk in ipairs(redis.call('HKEYS', lane_key(tag, lane, 'buckets'))) do
      if not string.find(bk, ':', 1, true) and bk ~= 'v' then
        look(redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, last))
      end
    end
    for _, kind in pairs(BLOCKED) do
      look(redis.call('ZRANGE', lane_key(tag, lane, 'blocked:' .. kind), 0, last))
    end
    look(redis.call('HKEYS', lane_key(tag, lane, 'active')))
  end
  return out
end }
