-- The worker registry: the registrations of one namespace, which share the tag
-- {w:<namespace>}. (Specification 02, section 10.)
--
-- ff:worker:<tag>:<instance> holds rec (JSON of what the worker said: ids, lanes,
-- capabilities) and beside it what the store decides on or changes: worker,
-- nonce, implicit ('1'), ttl, reg (registered_at), beat (last_heartbeat_at) and
-- exp. A registration counts while now < exp; the key's own expiry only cleans up.

local WORKER_GRACE = 3600000

local function worker_key(tag, instance)
  return 'ff:worker:' .. tag .. ':' .. instance
end

local function workers_key(tag)
  return 'ff:idx:' .. tag .. ':workers'
end

-- worker_log notes a change of the registry, and drops what is over a day old.
local function worker_log(tag, at, kind, instance, reason)
  local log = 'ff:idx:' .. tag .. ':log'
  redis.call('XADD', log, 'MAXLEN', '~', 10000, '0-*', 'at', S(at), 'kind', kind, 'instance', instance, 'reason', reason)
  for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', 10)) do
    if tonumber(entry[2][2]) >= at - MS_DAY then
      break
    end
    redis.call('XDEL', log, entry[1])
  end
  redis.call('PEXPIRE', log, MS_DAY + WORKER_GRACE)
end

-- worker_alive returns the live registration of an instance, nil without one.
local function worker_alive(tag, instance, at)
  local v = redis.call('HMGET', worker_key(tag, instance), 'exp', 'worker', 'nonce', 'implicit', 'ttl', 'reg', 'beat', 'rec')
  if not v[1] or at >= tonumber(v[1]) then
    return nil
  end
  return {
    exp = tonumber(v[1]), worker = v[2], nonce = v[3], implicit = v[4] == '1', ttl = tonumber(v[5]),
    reg = tonumber(v[6]), beat = tonumber(v[7]), rec = v[8] or '',
  }
end

-- worker_until sets the expiry of a registration, the last step of a change.
local function worker_until(tag, instance, exp, ttl)
  redis.call('ZADD', workers_key(tag), exp, instance)
  redis.call('PEXPIRE', worker_key(tag, instance), ttl + WORKER_GRACE)
end

-- worker_beat counts a heartbeat of a live registration and returns its expiry.
local function worker_beat(tag, instance, w, at)
  local beat = at > w.beat and at or w.beat
  local exp = beat + w.ttl
  redis.call('HSET', worker_key(tag, instance), 'beat', S(beat), 'exp', S(exp))
  worker_until(tag, instance, exp, w.ttl)
  return exp
end

-- worker_write writes a registration; what it was before decides on reg alone.
local function worker_write(tag, instance, old, at, worker, nonce, implicit, ttl, rec)
  local exp = at + ttl
  redis.call('HSET', worker_key(tag, instance), 'rec', rec, 'worker', worker, 'nonce', nonce, 'implicit', implicit, 'ttl', S(ttl),
    'reg', S(old and old.reg or at), 'beat', S(at), 'exp', S(exp))
  worker_until(tag, instance, exp, ttl)
  return exp
end

-- ff_register_worker
-- KEYS 1 routing key ff:{w:<namespace>}
-- ARGV instance, worker_id, nonce, ttl, rec
-- Returns {registered or refreshed, expires_at, rec before ('' when there was
--      none), '1' when that was implicit}.
-- Refuses instance_id_reassigned|instance|worker_id and
--      duplicate_worker_instance|instance|expires_at.
redis.register_function('ff_register_worker', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local instance, worker, nonce, ttl = a[1], a[2], a[3], tonumber(a[4])
  local old = worker_alive(tag, instance, at)
  if old and old.worker ~= worker then
    return refuse('instance_id_reassigned', instance, old.worker)
  end
  if old and not old.implicit and old.nonce ~= nonce then
    return refuse('duplicate_worker_instance', instance, S(old.exp))
  end
  local outcome = old and 'refreshed' or 'registered'
  local exp = worker_write(tag, instance, old, at, worker, nonce, '', ttl, a[5])
  worker_log(tag, at, outcome, instance, '')
  return { outcome, S(exp), old and old.rec or '', old and old.implicit and '1' or '' }
end)

-- ff_register_implicit
-- A claim request as registration, or as the heartbeat of an explicit one.
-- KEYS 1 routing key ff:{w:<namespace>}
-- ARGV instance, worker_id, ttl, rec
-- Returns {registered, refreshed or explicit, expires_at, ttl of the record, rec
--      before ('' when there was none)}.
-- Refuses instance_id_reassigned|instance|worker_id.
redis.register_function('ff_register_implicit', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local instance, worker, ttl = a[1], a[2], tonumber(a[3])
  local old = worker_alive(tag, instance, at)
  if old and old.worker ~= worker then
    return refuse('instance_id_reassigned', instance, old.worker)
  end
  if old and not old.implicit then
    return { 'explicit', S(worker_beat(tag, instance, old, at)), S(old.ttl), old.rec }
  end
  local outcome = old and 'refreshed' or 'registered'
  local exp = worker_write(tag, instance, old, at, worker, '', '1', ttl, a[4])
  if not old or old.rec ~= a[4] then
    worker_log(tag, at, outcome, instance, '')
  end
  return { outcome, S(exp), S(ttl), old and old.rec or '' }
end)

-- ff_heartbeat_worker
-- KEYS 1 routing key ff:{w:<namespace>}
-- ARGV instance, nonce
-- Returns {expires_at}, {''} when this process has no live registration.
redis.register_function('ff_heartbeat_worker', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local w = worker_alive(tag, a[1], at)
  if not w or w.nonce ~= a[2] then
    return { '' }
  end
  return { S(worker_beat(tag, a[1], w, at)) }
end)

-- ff_mark_worker_dead
-- KEYS 1 routing key ff:{w:<namespace>}
-- ARGV instance, log entry (marked_dead or deregistered), reason
-- Returns {'1'} when a live registration was removed, else {'0'}.
redis.register_function('ff_mark_worker_dead', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local alive = worker_alive(tag, a[1], at)
  redis.call('DEL', worker_key(tag, a[1]))
  if redis.call('ZREM', workers_key(tag), a[1]) == 1 then
    worker_log(tag, at, a[2], a[1], a[3])
  end
  return { alive and '1' or '0' }
end)

-- ff_sweep_workers
-- KEYS 1 routing key ff:{w:<namespace>}
-- ARGV limit
-- Returns {how many registrations past their expiry were removed}.
redis.register_function('ff_sweep_workers', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local dead = redis.call('ZRANGEBYSCORE', workers_key(tag), '-inf', S(at), 'LIMIT', 0, a[1])
  for _, instance in ipairs(dead) do
    redis.call('DEL', worker_key(tag, instance))
    redis.call('ZREM', workers_key(tag), instance)
    worker_log(tag, at, 'ttl_swept', instance, '')
  end
  return { S(#dead) }
end)
