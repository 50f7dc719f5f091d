-- The waitpoint primitive: its records, and what a transition notes of waits until
-- it is saved. (Specification 03.)
--
-- r.waits holds what is to be written beside core: of waitpoints, of the suspension,
-- of signals. flush_waits writes it once core is saved.

-- The score of a waitpoint in the order of its execution: its state. Final ones have
-- another, so that open ones are found, and counted, without them.
wait.RANK = { p = 0, a = 1, s = 2, c = 3, e = 3 }
wait.LAST_OPEN = 2
wait.STATE = { p = 'pending', a = 'active', s = 'satisfied', c = 'closed', e = 'expired' }
wait.MAX_OPEN = 1000
local MAX_INSTANT = 9007199254740991

function wait.key(tag, id)
  return 'ff:wp:' .. tag .. ':' .. id
end

-- instant adds a duration to an instant, clamped to the last instant of waits.
function wait.instant(at, ms)
  local ends = at + ms
  return ends > MAX_INSTANT and MAX_INSTANT or ends
end

-- noted is what the transition has noted so far.
function wait.noted(r)
  if not r.waits then
    r.waits = { list = {}, wps = {}, ranks = {}, susp = {}, signals = {}, after = {} }
  end
  return r.waits
end

-- remember notes a key that counts for a time. Its value begins with when that ends,
-- which decides; the key itself goes a minute later.
function wait.remember(r, key, at, ttl, value)
  local after = wait.noted(r).after
  after[#after + 1] = { 'SET', key, S(at + ttl) .. value, 'PX', S(ttl + 60000) }
end

-- append adds fields and values, in turn, to a list.
function wait.append(list, field, value, ...)
  local n = #list
  list[n + 1], list[n + 2] = field, value
  if ... then
    return wait.append(list, ...)
  end
end

-- begin notes that an execution has waits, before its first one, and whether its
-- policy is empty, so that later ones need not read it. The limit on its signals comes
-- into core where it is not the usual one.
function wait.begin(r)
  if flag(r, 'w') then
    return
  end
  set_flag(r, 'w')
  if not next(policy_of(r)) then
    set_flag(r, 'n')
  end
  local limit = absent(policy_of(r).max_signals_per_execution)
  if limit and limit ~= 10000 then
    put(r, 'sl', S(limit))
  end
end

-- set_waitpoint notes fields of a waitpoint, field and value in turn. The same field
-- may come again: the last value holds.
function wait.set_waitpoint(r, id, ...)
  local waits = wait.noted(r)
  local set = waits.wps[id]
  if not set then
    set = {}
    waits.wps[id] = set
    waits.list[#waits.list + 1] = id
  end
  return wait.append(set, ...)
end

-- move_waitpoint notes that a waitpoint has come to a state.
function wait.move_waitpoint(r, id, state)
  local ranks = wait.noted(r).ranks
  wait.set_waitpoint(r, id, 's', state)
  ranks[#ranks + 1] = wait.RANK[state]
  ranks[#ranks + 1] = id
end

-- note_signal notes fields of the signals hash.
function wait.note_signal(r, field, value)
  local signals = wait.noted(r).signals
  signals[#signals + 1] = field
  signals[#signals + 1] = value
end

-- written sends a command with a list of any length, in parts that Lua can unpack.
local function written(command, key, list)
  for i = 1, #list, 2000 do
    redis.call(command, key, unpack(list, i, math.min(i + 1999, #list)))
  end
end

wait.flush = function(r)
  local waits = r.waits
  for _, id in ipairs(waits.list) do
    written('HSET', wait.key(r.tag, id), waits.wps[id])
  end
  written('ZADD', exec_key(r.tag, r.e, 'waitpoints'), waits.ranks)
  if waits.replaced then
    redis.call('DEL', exec_key(r.tag, r.e, 'susp'))
  end
  written('HSET', exec_key(r.tag, r.e, 'susp'), waits.susp)
  written('HSET', exec_key(r.tag, r.e, 'signals'), waits.signals)
  for _, command in ipairs(waits.after) do
    redis.call(unpack(command))
  end
  r.waits = nil
end

-- load_waitpoint reads a waitpoint, whatever execution it is of; nil without one.
function wait.load_waitpoint(tag, id)
  local v = redis.call('HMGET', wait.key(tag, id), 'x', 'k', 's', 'a', 'sid', 'exp', 'kid', 'dg', 'n', 'm')
  if not v[1] then
    return nil
  end
  return {
    id = id, x = v[1], key = v[2], state = v[3], attempt = v[4], sid = v[5], exp = N(v[6] or nil),
    token = v[7] and v[8] and v[7] .. ':' .. v[8], n = N(v[9] or nil, 0), m = N(v[10] or nil, 0),
  }
end

-- new_waitpoint writes a waitpoint that has not been there.
function wait.new_waitpoint(r, id, key, kid, digest, at)
  wait.set_waitpoint(r, id, 'x', r.e, 'k', key, 'a', r.f.aid, 'i', S(N(r.f.attempts, 0) - 1), 'kid', kid, 'dg', digest, 'at', S(at))
end

-- open_waitpoints lists the open waitpoints: id and state.
function wait.open_waitpoints(r)
  local list = {}
  if flag(r, 'w') then
    local flat = redis.call('ZRANGE', exec_key(r.tag, r.e, 'waitpoints'), 0, wait.LAST_OPEN, 'BYSCORE', 'WITHSCORES')
    for i = 1, #flat, 2 do
      local rank = tonumber(flat[i + 1])
      list[#list + 1] = { id = flat[i], state = rank == 0 and 'p' or rank == 1 and 'a' or 's' }
    end
  end
  return list
end

-- buffered reads the signals that are buffered on a pending waitpoint, n of them.
function wait.buffered(r, id, n)
  local list = {}
  for from = 1, n, 1000 do
    local fields = {}
    for i = from, math.min(from + 999, n) do
      fields[#fields + 1] = 'b' .. S(i)
    end
    for _, text in ipairs(redis.call('HMGET', wait.key(r.tag, id), unpack(fields))) do
      list[#list + 1] = text and cjson.decode(text) or nil
    end
  end
  return list
end

-- unbuffer notes that nothing is buffered on a waitpoint any more.
function wait.unbuffer(r, id, n)
  local fields = {}
  for i = 1, n do
    fields[i] = 'b' .. S(i)
  end
  for i = 1, n, 2000 do
    local after = wait.noted(r).after
    after[#after + 1] = { 'HDEL', wait.key(r.tag, id), unpack(fields, i, math.min(i + 1999, n)) }
  end
end

-- finish_waitpoint brings a waitpoint to its end. Signals still buffered on it never
-- act.
function wait.finish_waitpoint(r, w, state, why, at)
  wait.move_waitpoint(r, w.id, state)
  wait.set_waitpoint(r, w.id, 'cl', S(at), 'why', why)
  if w.state ~= 'p' then
    return
  end
  local n = w.n or N(redis.call('HGET', wait.key(r.tag, w.id), 'n') or nil, 0)
  for _, g in ipairs(wait.buffered(r, w.id, n)) do
    wait.note_signal(r, 'e' .. S(g.seq), 'v')
  end
  wait.unbuffer(r, w.id, n)
end

-- pending_end is when the first pending waitpoint ends, all but one; nil without any.
local function pending_end(r, but)
  local first
  for _, w in ipairs(wait.open_waitpoints(r)) do
    if w.state == 'p' and w.id ~= but then
      first = sooner(first, N(redis.call('HGET', wait.key(r.tag, w.id), 'exp') or nil))
    end
  end
  return first
end

-- put_pending_end stores it: due holds it together with the other instants.
function wait.put_pending_end(r, first)
  put(r, 'wpx', first and S(first) or nil)
end

-- expire_waitpoints ends the life of the pending waitpoints that are past it; nil when
-- there is none: then what core holds is merely too early and is corrected.
function wait.expire_waitpoints(r, at)
  local first, some
  for _, open in ipairs(wait.open_waitpoints(r)) do
    local w = open.state == 'p' and wait.load_waitpoint(r.tag, open.id)
    if w and w.exp <= at then
      wait.finish_waitpoint(r, w, 'e', 'never_committed', at)
      some = true
    elseif w then
      first = sooner(first, w.exp)
    end
  end
  if some then
    wait.put_pending_end(r, first)
    return true
  end
  r.f.wpx = first and S(first) or nil
  if first then
    redis.call('HSET', exec_key(r.tag, r.e, 'core'), 'wpx', r.f.wpx)
  else
    redis.call('HDEL', exec_key(r.tag, r.e, 'core'), 'wpx')
  end
  return nil
end

-- purge removes all that is kept of waits.
function wait.purge(r)
  local key = exec_key(r.tag, r.e, 'waitpoints')
  local keys = { exec_key(r.tag, r.e, 'susp'), exec_key(r.tag, r.e, 'signals'), key }
  for _, id in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    keys[#keys + 1] = wait.key(r.tag, id)
  end
  for i = 1, #keys, 2000 do
    redis.call('UNLINK', unpack(keys, i, math.min(i + 1999, #keys)))
  end
end

-- not_minted refuses when the caller's token is not one of the key that is current
-- now; nil when it is. Without a token the caller could not make one, and says why
-- once it knows the ring as it is. A kid of '' is an empty ring.
function wait.not_minted(tag, kid, digest)
  local current = redis.call('HGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid') or ''
  if current ~= kid then
    return refusal('kid_moved')
  end
  return digest == '' and refusal('no_token') or nil
end

function wait.open_limit()
  return refusal('waitpoint_limit_exceeded', S(wait.MAX_OPEN))
end

-- ff_create_pending_waitpoint
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, waitpoint_id, key, life in ms,
--      kid, digest of the token ('' when none could be made)
-- Returns {expires_at, token}.
redis.register_function('ff_create_pending_waitpoint', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local _
  _, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, nil, at, true)
  if refused then
    return reply(refused)
  end
  local id, key = a[6], a[7]
  local stored = wait.load_waitpoint(tag, id)
  if stored then
    if stored.x ~= r.e or stored.attempt ~= r.f.aid or stored.key ~= key then
      return refuse('waitpoint_already_exists', id)
    end
    return { S(stored.exp or 0), stored.token or '' }
  end
  if flag(r, 'w') and redis.call('ZCOUNT', exec_key(tag, r.e, 'waitpoints'), 0, wait.LAST_OPEN) >= wait.MAX_OPEN then
    return reply(wait.open_limit())
  end
  refused = wait.not_minted(tag, a[9], a[10])
  if refused then
    return reply(refused)
  end
  local ends = wait.instant(at, tonumber(a[8]))
  wait.begin(r)
  wait.new_waitpoint(r, id, key, a[9], a[10], at)
  wait.move_waitpoint(r, id, 'p')
  wait.set_waitpoint(r, id, 'exp', S(ends))
  wait.put_pending_end(r, sooner(N(r.f.wpx), ends))
  refused = commit(r, at)
  if refused then
    return reply(refused)
  end
  return { S(ends), a[9] .. ':' .. a[10] }
end)

-- ff_close_waitpoint
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, source (l, o), waitpoint_id,
--      reason
-- Returns {closed or already_closed}.
redis.register_function('ff_close_waitpoint', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if a[6] == 'l' then
    local _
    _, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, nil, at, true)
    if refused then
      return reply(refused)
    end
  end
  local w = wait.load_waitpoint(tag, a[7])
  if not w or w.x ~= r.e then
    return refuse('waitpoint_not_found', a[7])
  end
  if wait.RANK[w.state] > wait.LAST_OPEN then
    return { 'already_closed' }
  end
  if w.state ~= 'p' then
    return refuse('waitpoint_in_use', w.id, wait.STATE[w.state])
  end
  wait.finish_waitpoint(r, w, 'c', a[8], at)
  wait.put_pending_end(r, pending_end(r, w.id))
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { 'closed' }
end)

-- read.w lists the pending and active waitpoints by id. a: waitpoint_id to start
-- after, limit. It returns {1 when more follow, condition, escalated_at, then for each:
-- id, key, state, created_at, activated_at, expires_at, kid, digest}.
function wait.read.w(tag, e, a)
  local after, limit = a[3], tonumber(a[4])
  local ids = {}
  for _, id in ipairs(redis.call('ZRANGE', exec_key(tag, e, 'waitpoints'), wait.RANK.p, wait.RANK.a, 'BYSCORE')) do
    if id > after then
      ids[#ids + 1] = id
    end
  end
  table.sort(ids)
  local x = redis.call('HMGET', exec_key(tag, e, 'susp'), 'cond', 'esc', 'wps')
  local out = { #ids > limit and '1' or '0', x[1] and wait.long(x[1], x[3]) or '', x[2] or '' }
  for i = 1, math.min(limit, #ids) do
    out[#out + 1] = ids[i]
    for _, v in ipairs(redis.call('HMGET', wait.key(tag, ids[i]), 'k', 's', 'at', 'act', 'exp', 'kid', 'dg')) do
      out[#out + 1] = v or ''
    end
  end
  return out
end
