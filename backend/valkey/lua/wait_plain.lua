-- The plain paths of a wait: suspend on one fresh waitpoint until one signal, the signal
-- that ends it or does not match, the claim that goes on. Each reads what matters at
-- once and writes once; where anything is unusual it returns nil, nothing being written,
-- and the general path of suspension.lua, signal.lua or claim.lua takes over. Both leave
-- the same behind.
--
-- What they never take: a record with the flag x, whose fields may lie elsewhere.

local SINGLE = '{"v":1,"kind":"single","waitpoint_key":"'

-- quotable tells whether a text stands in JSON as it is, between quotes.
local function quotable(text)
  return not string.find(text, '["\\]')
end

local function tags_of(tag, e, flags)
  if not string.find(flags, 't', 1, true) then
    return ''
  end
  return tags_json({ tag = tag, e = e, f = { flags = flags } })
end

-- claim_resumed claims an execution whose wait is over. first is what claim_first has
-- read of it. It returns a task, or nil where it is something else.
function wait.claim_resumed(tag, lane, e, c, at, when, first)
  local namespace, flags, deadline, flow = first[2], first[3] or '', first[5], first[6] or ''
  if first[1] ~= 'Wi' or first[7] or first[9] ~= 'waiting' or not c.more or namespace == '@' or string.find(flags, '[cx]') then
    return nil
  end
  local call = redis.call
  local core = exec_key(tag, e, 'core')
  local v = call('HMGET', core, 'lane_id', 'aid', 'epoch', 'pz', 'wpx', 'le', 'pl', 'at', 'reclaims', 'fb', 'route', 'adm')
  if v[1] ~= lane or v[6] or v[7] then
    return nil
  end
  local due, attempt_due = c.ends, ''
  local more, gone = c.more, { 'pz', 'sid' }
  local left = string.match(v[4] or '', '^.:%d+:(%-?%d+)$')
  if left then
    local ends = math.max(1, at + left)
    attempt_due = S(ends)
    due = sooner(due, ends)
    more = { 'attempt_due', attempt_due, unpack(more) }
  else
    gone[3] = 'attempt_due'
  end
  if c.digest == '' then
    gone[#gone + 1] = 'ch'
  end
  if c.ttl == '30000' then
    gone[#gone + 1] = 'ttl'
  end
  due = sooner(sooner(due, N(deadline or nil)), N(v[5] or nil))
  local index, epoch, tags = S(first[8] - 1), S(v[3] + 1), tags_of(tag, e, flags)
  call('HDEL', core, unpack(gone))
  call('HSET', core, 'public_state', 'active', 'st', 'Ar', 'epoch', epoch, 'lease_id', c.lease, 'worker', c.worker, 'wi', c.instance,
    'lx', c.expires, 'rs', when, 'updated_at', when, unpack(more))
  collect(c.batch, 'ZADD', 'ff:idx:' .. tag .. ':due', due, e)
  collect(c.batch, 'HSET', c.active, e, c.instance)
  if leases_on then
    feed_event(tag, 'leases', 'resumed\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. flow .. '\n' .. when .. '\n' .. index ..
      '\n' .. v[2] .. '\n' .. tags .. '\n' .. c.lease .. '\n' .. epoch .. '\n' .. c.worker .. '\n' .. c.instance .. '\n' .. c.expires ..
      '\n\n\n\n\n\n')
  end
  return {
    when, e, index, v[2], v[8] or '', 's', c.lease, epoch, c.expires, attempt_due, deadline or '', v[9] or '0', v[10] or '0', flow,
    namespace, v[11] or '', v[12] or '', c.instance, tags, call('GET', exec_key(tag, e, 'def')) or '', '0', lane,
  }
end

-- effect_of is what a signal does to an open condition of one node: r when it satisfies
-- it, m when the matcher refuses it; nil for any other condition. A matcher by name
-- alone is told by its text.
local function effect_of(cond, key, g)
  if quotable(g.name) and quotable(key) and
    cond == SINGLE .. key .. '","matcher":{"kind":"by_name","name":"' .. g.name .. '"}}' then
    return 'r'
  end
  if string.find(cond, SINGLE, 1, true) ~= 1 then
    return nil
  end
  local leaf = cjson.decode(cond)
  if leaf.waitpoint_key ~= key then
    return nil
  end
  return wait.accepts(leaf.matcher, g) and 'r' or 'm'
end

-- resume_plainly writes to core and to the indexes that the wait is over. x: what
-- deliver_plainly knows of the execution. It returns the offer.
local function resume_plainly(tag, e, core, x, when)
  local call = redis.call
  call('HDEL', core, 'wid', 'sto', 'wr', 'blocking_reason')
  call('HSET', core, 'public_state', 'waiting', 'st', 'Wi', 'sq', x.seq, 'updated_at', when)
  call('ZADD', lane_key(tag, x.lane, 'el:' .. x.bk), x.score, e)
  if x.timeout then
    call('ZADD', 'ff:idx:' .. tag .. ':due', sooner(N(x.deadline or nil), N(x.pending or nil)) or '+inf', e)
  end
  return x.lane .. '\n' .. x.namespace .. '\n' .. x.caps .. '\n' .. x.score .. '\n' .. e
end

-- deliver_plainly takes a new signal for the active waitpoint of a condition of one node.
-- a: the arguments of ff_deliver_signal. It returns the answer, or nil where it is
-- something else.
function wait.deliver_plainly(tag, a, at, when)
  if a[14] ~= '' then
    return nil
  end
  local call = redis.call
  local e, id = a[1], a[2]
  local core = exec_key(tag, e, 'core')
  local v = call('HMGET', core, 'public_state', 'st', 'lane_id', 'namespace', 'created_at', 'priority', 'bk', 'flags', 'attempts', 'aid',
    'flow_id', 'sq', 'sl', 'sto', 'deadline', 'wpx')
  local lane, namespace, flags, sq = v[3], v[4], v[8] or '', N(v[12] or nil, 0)
  if v[2] ~= 'Si' or v[1] ~= 'suspended' or namespace == '@' or string.find(flags, 'x', 1, true) or
    (a[15] ~= '' and a[15] ~= lane) or sq >= N(v[13] or nil, 10000) then
    return nil
  end
  local wp_key = wait.key(tag, id)
  local w = call('HMGET', wp_key, 'x', 'k', 's', 'n')
  if w[1] ~= e or w[2] ~= a[3] or w[3] ~= 'a' then
    return nil
  end
  local ring = call('HMGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid', 'secret:' .. a[4])
  if ring[1] ~= a[4] or not ring[2] then
    return nil
  end
  local susp = exec_key(tag, e, 'susp')
  local s = call('HMGET', susp, 'id', 'cond', 'esc', 'delay', 'keep', 'nc', 'n')
  if not s[1] or s[3] or s[4] or s[5] then
    return nil
  end
  local effect = effect_of(s[2], a[3], { name = a[6], category = a[7], source = a[8] })
  local signals = exec_key(tag, e, 'signals')
  if not effect or call('HGET', signals, 'i:' .. a[5]) then
    return nil
  end
  local dedup = a[12] ~= '' and 'ff:sigdedup:' .. tag .. ':' .. id .. ':' .. a[12]
  if dedup and call('GET', dedup) then
    return nil
  end
  local descriptor = effect == 'r' and call('HGET', lane_key(tag, lane, 'buckets'), v[7])
  if effect == 'r' and not descriptor then
    return nil
  end

  local x = { seq = S(sq + 1), lane = lane, namespace = namespace, bk = v[7], timeout = v[14], deadline = v[15], pending = v[16] }
  x.caps = descriptor and string.find(flags, 'c', 1, true) and string.match(descriptor, '\n(.*)$') or ''
  x.score = v[6] and string.format('%d', v[5] - v[6] * PRIORITY_STEP) or v[5]
  local offered, event = '', 'no_op'
  if effect == 'r' then
    offered, event = resume_plainly(tag, e, core, x, when), 'satisfied'
  else
    call('HSET', core, 'sq', x.seq, 'mutated_at', when)
  end
  if signals_on then
    feed_event(tag, 'signals', event .. '\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. (v[11] or '') .. '\n' .. when ..
      '\n' .. S(v[9] - 1) .. '\n' .. v[10] .. '\n' .. tags_of(tag, e, flags) .. '\n' .. a[5] .. '\n' .. id .. '\n' .. effect .. '\n' ..
      #a[6] .. '\n' .. a[6] .. a[9])
    call('SPUBLISH', 'ff:feed:' .. tag, 'signals')
  end
  local n, seen, mark = S(N(w[4] or nil, 0) + 1), S(N(s[7] or nil, 0) + 1), effect
  if effect == 'r' then
    wake(tag, lane, namespace, x.caps, x.score, e)
    mark = s[6] and 'r' or 'r:' .. when .. ':' .. s[1]
    call('HSET', wp_key, 'n', n, 'last', when, 'm', '1', 'sat', when, 's', 'c', 'cl', when, 'why', 'resumed')
    call('ZADD', exec_key(tag, e, 'waitpoints'), '3', id)
    call('HSET', susp, 's1:1', '1', 'cnt', '1', 'n', seen, 'last', when, 'm', '1', 'sats', '1', 'g1', x.seq .. ':' .. a[5],
      'closer', a[5], 'closed', when, 'why', 'resumed', 'sat', when)
  else
    call('HSET', wp_key, 'n', n, 'last', when)
    call('HSET', susp, 'n', seen, 'last', when)
  end
  local record = when .. '\n' .. id .. '\n' .. a[10]
  if a[11] ~= '' then
    call('HSET', signals, x.seq, record, 'i:' .. a[5], x.seq, 'e' .. x.seq, mark, 'p' .. x.seq, a[11])
  else
    call('HSET', signals, x.seq, record, 'i:' .. a[5], x.seq, 'e' .. x.seq, mark)
  end
  if dedup then
    call('SET', dedup, S(at + a[13]) .. ' ' .. x.seq, 'PX', S(a[13] + 60000))
  end
  return { 'a', a[5], effect, offered }
end

-- frozen reads as much of the policy as a suspend must know, into r. It tells whether a
-- first wait may go the plain path: it may not under a limit of its own on signals.
local function frozen(r, waited)
  local head = redis.call('GETRANGE', exec_key(r.tag, r.e, 'def'), 64, 95)
  if string.find(head, '^%d+ %d+ %d+ %d+ 2\n') then
    r.policy = {}
    return true
  end
  local limit = absent(policy_of(r).max_signals_per_execution)
  return waited or not limit or limit == 10000
end

-- waits_on tells whether a condition is one node that listens to the key.
local function waits_on(cond, key)
  return quotable(key) and string.find(cond, SINGLE .. key .. '","matcher":{', 1, true) == 1
end

-- suspend_plainly suspends until one signal on one fresh waitpoint. a: the arguments of
-- ff_suspend_execution. It returns the answer, or nil where it is something else.
function wait.suspend_plainly(tag, a, at, when)
  if #a ~= 22 or a[18] ~= '' or a[21] == '' or a[22] == '' or not waits_on(a[7], a[21]) then
    return nil
  end
  local call = redis.call
  local e, id = a[1], a[20]
  local core = exec_key(tag, e, 'core')
  local v = call('HMGET', core, 'public_state', 'st', 'lane_id', 'namespace', 'attempts', 'aid', 'lease_id', 'epoch', 'lx', 'worker', 'wi',
    'flags', 'attempt_due', 'deadline', 'wpx')
  local lane, namespace, worker, instance, flags = v[3], v[4], v[10], v[11], v[12] or ''
  if v[2] ~= 'Ar' or v[1] ~= 'active' or v[7] ~= a[2] or v[8] ~= a[3] or v[6] ~= a[4] or tonumber(v[9]) <= at or v[15] or
    (a[5] ~= '' and tonumber(a[5]) ~= v[5] - 1) or string.find(flags, 'x', 1, true) then
    return nil
  end
  local flow = ''
  if string.find(flags, 'o', 1, true) then
    local o = call('HMGET', core, 'flow_id', 'slot', 'admission_refs', 'pl')
    if o[2] or o[3] or o[4] then
      return nil
    end
    flow = o[1] or ''
  end
  local waited = string.find(flags, 'w', 1, true)
  local r = { tag = tag, e = e }
  if (not waited or a[13] == '' or (a[11] == '' and a[12] == '')) and not frozen(r, waited) then
    return nil
  end
  local ends, behavior = wait.timeout_of(r, a, at)
  if not ends and behavior then
    return nil
  end
  local waitpoints, wp_key = exec_key(tag, e, 'waitpoints'), wait.key(tag, id)
  if (waited and call('ZCOUNT', waitpoints, '0', '2') > 0) or call('EXISTS', wp_key) == 1 or
    call('HGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid') ~= a[19] then
    return nil
  end

  local left, index, timeout = '', S(v[5] - 1), ends and S(ends) or ''
  if v[13] then
    left = time_left({ f = { attempt_due = v[13] } }, at)
    call('HDEL', core, 'attempt_due')
  end
  local more = {}
  if not waited then
    wait.append(more, 'flags', flags .. 'w')
  end
  if ends then
    wait.append(more, 'sto', timeout)
  end
  if a[9] ~= 'waiting_for_signal' then
    wait.append(more, 'blocking_reason', a[9])
  end
  if a[8] ~= a[9] then
    wait.append(more, 'wr', a[8])
  end
  call('HSET', core, 'public_state', 'suspended', 'st', 'Si', 'pz', 's:' .. when .. ':' .. left, 'sid', a[6], 'wid', id,
    'updated_at', when, unpack(more))
  call('HDEL', lane_key(tag, lane, 'active'), e)
  call('ZADD', 'ff:idx:' .. tag .. ':due', sooner(ends, N(v[14] or nil)) or '+inf', e)
  if leases_on then
    feed_event(tag, 'leases', 'released\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. flow .. '\n' .. when .. '\n' .. index ..
      '\n' .. v[6] .. '\n' .. tags_of(tag, e, flags) .. '\n' .. v[7] .. '\n' .. v[8] .. '\n' .. worker .. '\n' .. instance ..
      '\n\n\n\n\n\n\nsuspend')
  end
  call('SPUBLISH', 'ff:done:' .. tag, '\31' .. e)
  call('HSET', wp_key, 'x', e, 'k', a[21], 'a', v[6], 'i', index, 'kid', a[19], 'dg', a[22], 'at', when, 'sid', a[6], 's', 'a',
    'act', when, 'exp', timeout)
  call('ZADD', waitpoints, '1', id)
  local susp = exec_key(tag, e, 'susp')
  if waited then
    call('DEL', susp)
  end
  more = {}
  if left ~= '' then
    wait.append(more, 'left', left)
  end
  if ends then
    wait.append(more, 'to', timeout, 'tb', behavior)
  end
  for i, field in ipairs({ 'delay', 'keep', 'nc', 'meta' }) do
    if a[13 + i] ~= '' then
      wait.append(more, field, a[13 + i])
    end
  end
  call('HSET', susp, 'id', a[6], 'lease', v[7], 'epoch', v[8], 'att', v[6], 'idx', index, 'reason', a[8], 'by', a[10], 'at', when,
    'cond', a[7], 'wps', id .. ' ' .. a[21], unpack(more))
  return { '0', 's', a[6], '1', id, a[21], a[19] .. ':' .. a[22] }
end
