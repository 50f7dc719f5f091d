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

-- seed installs a key in an empty ring, or puts the missing secret of the current key
-- back. It returns {installed, unchanged, repaired or kept, current kid}.
local function seed(tag, kid, secret)
  local ring = ring_of(tag)
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
end

-- rotate makes a key the current one. It returns {rotated or noop, previous kid, number
-- of keys removed}.
local function rotate(tag, kid, secret, grace)
  local at = now()
  local key, ring = ring_key(tag), ring_of(tag)
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
    redis.call('HSET', key, 'expires_at:' .. current, S(wait.instant(at, grace)))
  end
  return { 'rotated', current or '', S(removed) }
end

-- read.k lists the keys without their secrets: {now, current kid, then former kid and
-- the end of its grace in turn}.
function wait.read.k(tag)
  local ring = ring_of(tag)
  local out = { (S(now())), ring.current_kid or '' }
  for field, value in pairs(ring) do
    local former = string.match(field, '^expires_at:(.*)$')
    if former and tonumber(value) then
      out[#out + 1] = former
      out[#out + 1] = value
    end
  end
  return out
end

-- begin lets one rotation run at a time: {1 when the caller may, else 0}.
local function begin(key, mark, ttl)
  if redis.call('SET', key, mark, 'NX', 'PX', ttl) or redis.call('GET', key) == mark then
    return { '1' }
  end
  return { '0' }
end

local function finish(key, mark)
  if redis.call('GET', key) == mark then
    redis.call('DEL', key)
  end
  return {}
end

-- ff_waitpoint_secret
-- KEYS 1 routing key; for b and e ff:config:rotation
-- ARGV s, kid, secret: seed
--      r, kid, secret, grace in ms: rotate
--      b, mark of the caller, for how many ms at most: begin
--      e, mark: finish
-- Returns what that returns.
redis.register_function('ff_waitpoint_secret', function(keys, a)
  if a[1] == 'b' then
    return begin(keys[1], a[2], a[3])
  elseif a[1] == 'e' then
    return finish(keys[1], a[2])
  end
  local tag = enter(keys)
  if a[1] == 's' then
    return seed(tag, a[2], a[3])
  end
  return rotate(tag, a[2], a[3], tonumber(a[4]))
end)
