-- The plain paths of a wait: the suspend on one fresh waitpoint until one signal, that
-- signal or one that does not match, the claim that goes on. Each reads at once what
-- matters and writes once. Where anything is unusual it returns nil, nothing being
-- written, and the general path of suspension.lua, signal.lua or claim.lua takes over:
-- both leave the same behind.
--
-- A record with the flag x, whose fields may lie in the text hash, is never plain, nor is
-- one that lacks a field: an error midway would leave half of the writes.

-- numeric tells whether a field is there and a number.
local function numeric(v)
  return v and tonumber(v)
end

local function tags_of(tag, e, flags)
  if not string.find(flags, 't', 1, true) then
    return ''
  end
  return tags_json({ tag = tag, e = e, f = { flags = flags } })
end

-- The suspend. a: the arguments of ff_suspend_execution.

-- held_plainly reads the execution. It returns the fields and the flow when the caller
-- holds a live lease and nothing is held elsewhere.
local function held_plainly(core, a, at)
  local v = redis.call('HMGET', core, 'public_state', 'st', 'lane_id', 'namespace', 'attempts', 'aid', 'lease_id', 'epoch', 'lx', 'worker',
    'wi', 'flags', 'attempt_due', 'deadline', 'wpx')
  local flags, attempts, expires = v[12] or '', numeric(v[5]), numeric(v[9])
  if v[2] ~= 'Ar' or v[1] ~= 'active' or v[7] ~= a[2] or v[8] ~= a[3] or v[6] ~= a[4] or not attempts or not expires or
    expires <= at or v[15] or (a[5] ~= '' and tonumber(a[5]) ~= attempts - 1) or not (v[3] and v[4] and v[10] and v[11]) or
    string.find(flags, 'x', 1, true) then
    return nil
  end
  if not string.find(flags, 'o', 1, true) then
    return v, ''
  end
  local o = redis.call('HMGET', core, 'flow_id', 'slot', 'admission_refs', 'pl')
  if o[2] or o[3] or o[4] then
    return nil
  end
  return v, o[1] or ''
end

-- says_all tells whether a suspend says all about its timeout that the policy could.
local function says_all(a)
  return a[13] ~= '' and (a[11] ~= '' or a[12] ~= '')
end

-- frozen_plainly reads into r what a suspend must know of the policy. It tells whether
-- the policy is empty: the flag n says so from the first wait on.
local function frozen_plainly(r, exec, flags)
  if string.find(flags, 'n', 1, true) or
    string.find(redis.call('GETRANGE', exec .. 'def', 64, 95), '^%d+ %d+ %d+ %d+ 2\n') then
    r.policy = {}
    return true
  end
  r.policy = policy_of(r)
  return false
end

-- plain_timeout returns the timeout of the suspension to be, if any; false where it is to
-- be refused.
local function plain_timeout(r, a, at)
  if a[11] == '' and a[12] == '' and not r.policy.suspension_policy then
    return nil
  end
  local ends, behavior = wait.timeout_of(r, a, at)
  if not ends and behavior then
    return false
  end
  return ends, behavior
end

-- hold_plainly writes core and the indexes of a suspension.
local function hold_plainly(core, tag, a, v, flags, when, left, ends)
  local call, more = redis.call, {}
  if v[13] then
    call('HDEL', core, 'attempt_due')
  end
  if flags ~= (v[12] or '') then
    more[1], more[2] = 'flags', flags
  end
  if ends then
    wait.append(more, 'sto', S(ends))
  end
  if a[9] ~= 'waiting_for_signal' then
    wait.append(more, 'blocking_reason', a[9])
  end
  if a[8] ~= a[9] then
    wait.append(more, 'wr', a[8])
  end
  call('HSET', core, 'public_state', 'suspended', 'st', 'Si', 'pz', 's:' .. when .. ':' .. left, 'sid', a[6], 'wid', a[20],
    'updated_at', when, unpack(more))
  call('HDEL', lane_key(tag, v[3], 'active'), a[1])
  call('ZADD', 'ff:idx:' .. tag .. ':due', sooner(ends, N(v[14] or nil)) or '+inf', a[1])
end

-- keep_plainly writes the suspension in place of a former one.
local function keep_plainly(susp, waited, a, v, cond, index, when, left, ends, behavior)
  local more = {}
  if left ~= '' then
    more[1], more[2] = 'left', left
  end
  if ends then
    wait.append(more, 'to', S(ends), 'tb', behavior)
  end
  if a[14] ~= '' then
    wait.append(more, 'delay', a[14])
  end
  if a[15] ~= '' then
    wait.append(more, 'keep', a[15])
  end
  if a[16] ~= '' then
    wait.append(more, 'nc', a[16])
  end
  if a[17] ~= '' then
    wait.append(more, 'meta', a[17])
  end
  if waited then
    redis.call('DEL', susp)
  end
  redis.call('HSET', susp, 'id', a[6], 'lease', v[7], 'epoch', v[8], 'att', v[6], 'idx', index, 'reason', a[8], 'by', a[10], 'at', when,
    'cond', cond, 'wps', a[20] .. ' ' .. a[21], unpack(more))
end

-- suspend_plainly suspends until one signal on one fresh waitpoint, without a key for
-- a repeat. It returns the answer.
function wait.suspend_plainly(tag, a, at, when)
  local id, key = a[20], a[21]
  if #a ~= 22 or a[18] ~= '' or key == '' or a[22] == '' then
    return nil
  end
  local cond = wait.short(a[7], key)
  if cond == a[7] and not wait.is_single(cond, key) then
    return nil
  end
  local call, e = redis.call, a[1]
  local exec, wp = exec_key(tag, e, ''), wait.key(tag, id)
  local core, waitpoints = exec .. 'core', exec .. 'waitpoints'
  local v, flow = held_plainly(core, a, at)
  if not v then
    return nil
  end
  local flags, r = v[12] or '', { tag = tag, e = e }
  local waited = string.find(flags, 'w', 1, true)
  local bare = not (waited and says_all(a)) and frozen_plainly(r, exec, flags)
  if not waited then
    local limit = absent(r.policy.max_signals_per_execution)
    if limit and limit ~= 10000 then
      return nil
    end
    flags = flags .. (bare and 'wn' or 'w')
  end
  if (waited and call('ZCOUNT', waitpoints, 0, wait.LAST_OPEN) > 0) or call('EXISTS', wp) == 1 or
    call('HGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid') ~= a[19] then
    return nil
  end
  local ends, behavior = plain_timeout(r, a, at)
  if ends == false then
    return nil
  end

  local left = v[13] and time_left({ f = { attempt_due = v[13] } }, at) or ''
  local index = S(v[5] - 1)
  hold_plainly(core, tag, a, v, flags, when, left, ends)
  if leases_on then
    feed_event(tag, 'leases', 'released\n' .. e .. '\n' .. v[4] .. '\n' .. v[3] .. '\n' .. flow .. '\n' .. when .. '\n' .. index .. '\n' ..
      v[6] .. '\n' .. tags_of(tag, e, flags) .. '\n' .. v[7] .. '\n' .. v[8] .. '\n' .. v[10] .. '\n' .. v[11] ..
      '\n\n\n\n\n\n\nsuspend')
  end
  call('SPUBLISH', 'ff:done:' .. tag, '\31' .. e)
  call('HSET', wp, 'x', e, 'k', key, 'a', v[6], 'i', index, 'kid', a[19], 'dg', a[22], 'at', when, 'sid', a[6], 's', 'a', 'act', when,
    'exp', ends and S(ends) or '')
  call('ZADD', waitpoints, wait.RANK.a, id)
  keep_plainly(exec .. 'susp', waited, a, v, cond, index, when, left, ends, behavior)
  return { '0', 's', a[6], '1', id, key, a[19] .. ':' .. a[22] }
end

-- The signal. a: the arguments of ff_deliver_signal.

-- held_by_wait reads the execution and its waitpoint and looks at the ring. It returns
-- the fields of the one and how many signals the other has had.
local function held_by_wait(core, wp, tag, a)
  local call = redis.call
  local v = call('HMGET', core, 'public_state', 'st', 'lane_id', 'namespace', 'created_at', 'priority', 'bk', 'flags', 'attempts', 'aid',
    'wpx', 'sq', 'sl', 'sto', 'deadline')
  if v[2] ~= 'Si' or v[1] ~= 'suspended' or (a[15] ~= '' and a[15] ~= v[3]) or N(v[12] or nil, 0) >= N(v[13] or nil, 10000) or
    not (numeric(v[5]) and numeric(v[9]) and v[3] and v[4] and v[7] and v[8] and v[10]) or string.find(v[8], 'x', 1, true) then
    return nil
  end
  local w = call('HMGET', wp, 'x', 'k', 's', 'n')
  if w[1] ~= a[1] or w[2] ~= a[3] or w[3] ~= 'a' then
    return nil
  end
  local ring = call('HMGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid', 'secret:' .. a[4])
  if ring[1] ~= a[4] or not ring[2] then
    return nil
  end
  return v, N(w[4] or nil, 0)
end

-- effect_on is what a signal does to an open condition of one node, which nothing has
-- satisfied yet: r when it does, m when the matcher refuses it; nil for other conditions.
local function effect_on(cond, a)
  if string.byte(cond) == 61 then -- '=' and the name
    return cond == '=' .. a[6] and 'r' or 'm'
  elseif not wait.is_single(cond, a[3]) then
    return nil
  end
  local g = { name = a[6], category = a[7], source = a[8] }
  return wait.accepts(cjson.decode(cond).matcher, g) and 'r' or 'm'
end

-- offer_of is what a resumed execution is offered with: lane, namespace, capabilities
-- and rank; nil where its bucket is not registered.
local function offer_of(tag, v)
  local descriptor = redis.call('HGET', lane_key(tag, v[3], 'buckets'), v[7])
  if not descriptor then
    return nil
  end
  local caps = string.find(v[8], 'c', 1, true) and string.match(descriptor, '\n(.*)$') or ''
  return caps, v[6] and string.format('%d', v[5] - v[6] * PRIORITY_STEP) or v[5]
end

-- resume_plainly writes core and the indexes of an execution whose wait is over.
local function resume_plainly(core, tag, e, v, seq, when, score)
  local call = redis.call
  call('HDEL', core, 'wid', 'sto', 'wr', 'blocking_reason')
  call('HSET', core, 'public_state', 'waiting', 'st', 'Wi', 'sq', seq, 'updated_at', when)
  call('ZADD', lane_key(tag, v[3], 'el:' .. v[7]), score, e)
  if v[14] then
    call('ZADD', 'ff:idx:' .. tag .. ':due', sooner(N(v[15] or nil), N(v[11] or nil)) or '+inf', e)
  end
end

-- signal_plainly writes the event of a signal.
local function signal_plainly(core, tag, a, v, kind, effect, when)
  if not signals_on then
    return
  end
  local e, name = a[1], a[6]
  local flow = string.find(v[8], 'o', 1, true) and redis.call('HGET', core, 'flow_id') or ''
  feed_event(tag, 'signals', kind .. '\n' .. e .. '\n' .. v[4] .. '\n' .. v[3] .. '\n' .. flow .. '\n' .. when .. '\n' ..
    S(v[9] - 1) .. '\n' .. v[10] .. '\n' .. tags_of(tag, e, v[8]) .. '\n' .. a[5] .. '\n' .. a[2] .. '\n' .. effect .. '\n' ..
    #name .. '\n' .. name .. a[9])
  redis.call('SPUBLISH', 'ff:feed:' .. tag, 'signals')
end

-- record_plainly keeps the signal.
local function record_plainly(signals, a, seq, mark, when)
  local record = when .. '\n' .. a[2] .. '\n' .. a[10]
  if a[11] == '' then
    redis.call('HSET', signals, seq, record, 'i:' .. a[5], seq, 'e' .. seq, mark)
  else
    redis.call('HSET', signals, seq, record, 'i:' .. a[5], seq, 'e' .. seq, mark, 'p' .. seq, a[11])
  end
end

-- deliver_plainly takes a new signal for the active waitpoint of a condition of one node
-- which is to be closed with it, and to be resumed at once. It returns the answer.
function wait.deliver_plainly(tag, a, at, when)
  if a[14] ~= '' then
    return nil
  end
  local call, e, id = redis.call, a[1], a[2]
  local exec, wp = exec_key(tag, e, ''), wait.key(tag, id)
  local core, susp, signals = exec .. 'core', exec .. 'susp', exec .. 'signals'
  local v, had = held_by_wait(core, wp, tag, a)
  if not v then
    return nil
  end
  local x = call('HMGET', susp, 'id', 'cond', 'n', 'nc', 'esc', 'delay', 'keep')
  local effect = x[1] and x[2] and not x[5] and not x[6] and not x[7] and effect_on(x[2], a)
  if not effect or call('HGET', signals, 'i:' .. a[5]) then
    return nil
  end
  local dedup = a[12] ~= '' and 'ff:sigdedup:' .. tag .. ':' .. id .. ':' .. a[12]
  if dedup and call('GET', dedup) then
    return nil
  end
  local seq, n, seen, offered = S(N(v[12] or nil, 0) + 1), S(had + 1), S(N(x[3] or nil, 0) + 1), ''
  if effect == 'm' then
    call('HSET', core, 'sq', seq, 'mutated_at', when)
    signal_plainly(core, tag, a, v, 'no_op', 'm', when)
    call('HSET', wp, 'n', n, 'last', when)
    call('HSET', susp, 'n', seen, 'last', when)
    record_plainly(signals, a, seq, 'm', when)
  else
    local caps, score = offer_of(tag, v)
    if not caps then
      return nil
    end
    resume_plainly(core, tag, e, v, seq, when, score)
    signal_plainly(core, tag, a, v, 'satisfied', 'r', when)
    wake(tag, v[3], v[4], caps, score, e)
    call('HSET', wp, 'n', n, 'last', when, 'm', '1', 'sat', when, 's', 'c', 'cl', when, 'why', 'resumed')
    call('ZADD', exec .. 'waitpoints', wait.RANK.c, id)
    call('HSET', susp, 's1:1', '1', 'cnt', '1', 'n', seen, 'last', when, 'm', '1', 'sats', '1', 'g1', seq .. ':' .. a[5], 'closer', a[5],
      'closed', when, 'why', 'resumed', 'sat', when)
    record_plainly(signals, a, seq, x[4] and 'r' or 'r:' .. when .. ':' .. x[1], when)
    offered = v[3] .. '\n' .. v[4] .. '\n' .. caps .. '\n' .. score .. '\n' .. e
  end
  if dedup then
    call('SET', dedup, S(at + a[13]) .. ' ' .. seq, 'PX', S(a[13] + 60000))
  end
  return { 'a', a[5], effect, offered }
end

-- The claim that goes on. c: what ff_claim_next knows of the claimer.

-- left_behind lists the fields of core that a claim which resumes removes.
local function left_behind(c)
  if not c.left_behind then
    local list = { 'pz', 'sid', 'attempt_due' }
    if c.digest == '' then
      list[#list + 1] = 'ch'
    end
    if c.ttl == '30000' then
      list[#list + 1] = 'ttl'
    end
    c.left_behind = list
  end
  return c.left_behind
end

-- NEVER is what a first attempt has of former ones, where no flag says otherwise.
local NEVER = {}

-- claim_resumed claims an execution whose wait is over. first is what claim_first has
-- read of it. It returns a task.
function wait.claim_resumed(tag, lane, e, c, at, when, first)
  local namespace, flags, deadline, flow = first[2], first[3] or '', first[5], first[6] or ''
  if first[1] ~= 'Wi' or first[7] or first[8] ~= 'waiting' or not namespace or not c.more or string.find(flags, '[cx]') then
    return nil
  end
  local call, exec = redis.call, exec_key(tag, e, '')
  local core = exec .. 'core'
  local v = call('HMGET', core, 'lane_id', 'aid', 'epoch', 'pz', 'wpx', 'le', 'route', 'adm', 'attempts')
  local before = NEVER
  if v[9] ~= '1' or string.find(flags, 'o', 1, true) then
    before = call('HMGET', core, 'pl', 'at', 'reclaims', 'fb')
  end
  if v[1] ~= lane or v[6] or before[1] or not v[2] or not numeric(v[3]) or not numeric(v[9]) then
    return nil
  end
  local due, more, attempt_due = c.ends, c.more, ''
  local left = string.match(v[4] or '', '^.:%d+:(%-?%d+)$')
  if left then
    local ends = math.max(1, at + left)
    due, attempt_due = sooner(due, ends), S(ends)
    more = { 'attempt_due', attempt_due, unpack(more) }
  end
  due = sooner(sooner(due, N(deadline or nil)), N(v[5] or nil))
  local index, epoch, tags = S(v[9] - 1), S(v[3] + 1), tags_of(tag, e, flags)
  call('HDEL', core, unpack(left_behind(c)))
  call('HSET', core, 'public_state', 'active', 'st', 'Ar', 'epoch', epoch, 'lease_id', c.lease, 'worker', c.worker, 'wi', c.instance,
    'lx', c.expires, 'rs', when, 'updated_at', when, unpack(more))
  collect(c.batch, 'ZADD', c.batch.due, due, e)
  collect(c.batch, 'HSET', c.active, e, c.instance)
  if leases_on then
    collect_event(c.batch, tag, 'leases', 'resumed\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. flow .. '\n' .. when .. '\n' ..
      index .. '\n' .. v[2] .. '\n' .. tags .. '\n' .. c.lease .. '\n' .. epoch .. '\n' .. c.worker .. '\n' .. c.instance .. '\n' ..
      c.expires .. '\n\n\n\n\n\n')
  end
  local def = not string.find(flags, 'p', 1, true) and (call('GET', exec .. 'def') or '')
  return {
    when, e, index, v[2], before[2] or '', 's', c.lease, epoch, c.expires, attempt_due, deadline or '', before[3] or '0',
    before[4] or '0', flow, namespace, v[7] or '', v[8] or '', c.instance, tags, def, '0', lane,
  }
end
