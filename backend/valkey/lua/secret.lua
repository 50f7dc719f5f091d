-- The secret primitive: the copy of the key ring beside each partition. (Specification
-- 03, section 5.2.)

local function ring_key(tag)
  return 'ff:sec:' .. tag .. ':waitpoint_hmac'
end

-- ring_of reads the ring: field and value.
local function ring_of(tag)
  local ring = {}
  local flat = redis.call('HGETALL', ring_key(tag))
  for i = 1, #flat, 2 do
    ring[flat[i]] = given(flat[i + 1])
  end
  return ring
end

local function same_secret(a, b)
  return string.lower(a) == string.lower(b)
end

-- ff_seed_waitpoint_hmac_secret
-- KEYS 1 routing key
-- ARGV kid, secret
-- Returns {installed, unchanged, repaired or kept, current kid}.
redis.register_function('ff_seed_waitpoint_hmac_secret', function(keys, a)
  local tag = enter(keys)
  local ring = ring_of(tag)
  local kid, secret = a[1], a[2]
  local current = ring.current_kid
  local stored = ring['secret:' .. kid]
  if not current then
    redis.call('HSET', ring_key(tag), 'current_kid', kid, 'secret:' .. kid, secret)
    redis.call('HDEL', ring_key(tag), 'expires_at:' .. kid)
    return { 'installed', kid }
  elseif current ~= kid then
    return { 'kept', current }
  elseif not stored then
    redis.call('HSET', ring_key(tag), 'secret:' .. kid, secret)
    return { 'repaired', kid }
  end
  return { same_secret(stored, secret) and 'unchanged' or 'kept', kid }
end)

-- ff_rotate_waitpoint_hmac_secret
-- KEYS 1 routing key
-- ARGV kid, secret, grace in ms
-- Returns {rotated or noop, previous kid, number of keys removed}.
redis.register_function('ff_rotate_waitpoint_hmac_secret', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local key, ring = ring_key(tag), ring_of(tag)
  local kid, secret = a[1], a[2]
  local current, stored = ring.current_kid, ring['secret:' .. kid]
  if stored and not same_secret(stored, secret) then
    return refuse('rotation_conflict', kid)
  elseif kid == current then
    if not stored then
      redis.call('HSET', key, 'secret:' .. kid, secret)
    end
    return { 'noop', '', '0' }
  end
  local gone, removed = { 'expires_at:' .. kid }, 0
  for field, value in pairs(ring) do
    local former = string.match(field, '^expires_at:(.*)$')
    local ends = former and former ~= kid and tonumber(value)
    if ends and ends < at then
      gone[#gone + 1] = field
      gone[#gone + 1] = 'secret:' .. former
      removed = removed + 1
    end
  end
  redis.call('HDEL', key, unpack(gone))
  redis.call('HSET', key, 'current_kid', kid, 'secret:' .. kid, secret)
  if current then
    redis.call('HSET', key, 'expires_at:' .. current, S(wait.instant(at, tonumber(a[3]))))
  end
  return { 'rotated', current or '', S(removed) }
end)

-- ff_list_waitpoint_hmac_kids (read only)
-- KEYS 1 routing key
-- ARGV none
-- Returns {now, current kid, then former kid and the end of its grace in turn}: never
-- a secret.
redis.register_function{ function_name = 'ff_list_waitpoint_hmac_kids', flags = { 'no-writes' }, callback = function(keys)
  local ring = ring_of(enter(keys))
  local out = { S(now()), ring.current_kid or '' }
  for field, value in pairs(ring) do
    local former = string.match(field, '^expires_at:(.*)$')
    if former and tonumber(value) then
      out[#out + 1] = former
      out[#out + 1] = value
    end
  end
  return out
end }

-- ff_begin_rotation
-- KEYS 1 ff:config:rotation
-- ARGV a token of the caller, for how many ms at most
-- Returns {1 when the caller may rotate, else 0}. Only one at a time may.
redis.register_function('ff_begin_rotation', function(keys, a)
  if redis.call('SET', keys[1], a[1], 'NX', 'PX', a[2]) or redis.call('GET', keys[1]) == a[1] then
    return { '1' }
  end
  return { '0' }
end)

-- ff_end_rotation
-- KEYS 1 ff:config:rotation
-- ARGV the token given to ff_begin_rotation
-- Returns {}.
redis.register_function('ff_end_rotation', function(keys, a)
  if redis.call('GET', keys[1]) == a[1] then
    redis.call('DEL', keys[1])
  end
  return {}
end)
