-- The creation of executions, and the reservation of their idempotency keys.
-- (Specification 01, section 8.1; 07, section 6.2.)

-- LARGE is from how many bytes on a definition does not pass through Lua at a claim:
-- Lua hashes every byte of a text.
local LARGE = 1024

-- write_core writes core, tags and long texts of a new execution that is not the
-- plain case. x: its options.
local function write_core(tag, a, i, public, state, created, x, delay_until, deadline)
  local e, namespace = a[i], a[i + 2]
  local flags = #a[i + 5] > LARGE and 'p' or ''
  local core = { 'public_state', public, 'st', state, 'lane_id', a[i + 1], 'namespace', namespace, 'created_at', created, 'bk', a[i + 3] }
  if #namespace > 64 or string.byte(namespace) == 64 then
    core[8] = '@'
    flags = flags .. 'x'
    redis.call('HSET', exec_key(tag, e, 'text'), 'namespace', namespace)
  end
  if a[i + 4] ~= '' then
    flags = flags .. 'c'
  end
  if x.tags ~= '' then
    flags = flags .. 't'
    local list = {}
    for key, value in pairs(cjson.decode(x.tags)) do
      list[#list + 1] = key
      list[#list + 1] = value
    end
    redis.call('HSET', exec_key(tag, e, 'tags'), unpack(list))
  end
  if x.ret ~= '' then
    flags = flags .. 'o'
  end
  local more = {
    'flags', flags, 'priority', x.priority ~= '0' and x.priority or '', 'delay_until', delay_until, 'deadline', deadline,
    'to', x.to, 'ret', x.ret, 'mrc', x.mrc,
  }
  for k = 1, #more, 2 do
    if more[k + 1] ~= '' then
      core[#core + 1] = more[k]
      core[#core + 1] = more[k + 1]
    end
  end
  redis.call('HSET', exec_key(tag, e, 'core'), unpack(core))
end

-- options_of reads what most executions have nothing of; nil for those.
local function options_of(text)
  if text == '' then
    return nil
  end
  local x = {}
  x.priority, x.delay_until, x.deadline, x.deadline_ms, x.to, x.ret, x.mrc, x.tags =
    string.match(text, '^(-?%d*) (%d*) (%d*) (%d*) (%d*) (%d*) (%d*) (.*)$')
  return assert(x.tags and x, 'options of a create do not parse')
end

local NO_OPTIONS = { priority = '', delay_until = '', deadline = '', deadline_ms = '', to = '', ret = '', mrc = '', tags = '' }

-- create_core writes the record of a new execution with the options. It returns its
-- public state, priority and what is due next, and whether it has to wait.
local function create_core(tag, a, i, at, created, x)
  local e, lane, namespace, bk = a[i], a[i + 1], a[i + 2], a[i + 3]
  if not x and a[i + 4] == '' and #namespace <= 64 and string.byte(namespace) ~= 64 then
    local core = exec_key(tag, e, 'core')
    if #a[i + 5] > LARGE then
      redis.call('HSET', core, 'public_state', 'waiting', 'st', 'Wf', 'lane_id', lane, 'namespace', namespace, 'created_at', created,
        'bk', bk, 'flags', 'p')
    else
      redis.call('HSET', core, 'public_state', 'waiting', 'st', 'Wf', 'lane_id', lane, 'namespace', namespace, 'created_at', created,
        'bk', bk)
    end
    return 'waiting', 0
  end
  x = x or NO_OPTIONS
  local deadline = x.deadline
  if deadline == '' and x.deadline_ms ~= '' then
    deadline = S(at + x.deadline_ms)
  end
  local delay_until = N(x.delay_until)
  local delayed = delay_until ~= nil and delay_until > at
  if not delayed then
    delay_until = nil
  end
  local public = delayed and 'delayed' or 'waiting'
  write_core(tag, a, i, public, delayed and 'Df' or 'Wf', created, x, delayed and x.delay_until or '', deadline)
  return public, N(x.priority, 0), sooner(delay_until, N(deadline)), delayed
end

-- register makes sure that the bucket is known before a member enters it.
local function register(tag, lane, bk, namespace, caps)
  local buckets = lane_key(tag, lane, 'buckets')
  if redis.call('HEXISTS', buckets, bk) == 0 then
    redis.call('HSET', buckets, bk, namespace .. '\n' .. caps)
    redis.call('HINCRBY', buckets, 'v', 1)
    redis.call('SADD', 'ff:idx:' .. tag .. ':lanes', lane)
  end
end

-- create makes one execution. i is the index of its first argument.
local function create(tag, a, i, at, created, batch)
  local e, lane, namespace, bk, caps = a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4]
  local def_key = exec_key(tag, e, 'def')
  if a[i + 7] ~= '' then
    local digest = redis.call('GETRANGE', def_key, 0, 63)
    if digest ~= '' then
      return 'd' .. digest
    end
    return refusal('lane_intake_closed', lane, a[i + 7])
  end
  local options = options_of(a[i + 6])
  if not redis.call('SET', def_key, a[i + 5], 'NX') then
    return 'd' .. redis.call('GETRANGE', def_key, 0, 63)
  end
  local public, priority, due, delayed = create_core(tag, a, i, at, created, options)
  local el = lane_key(tag, lane, 'el:' .. bk)
  if not batch[el] then
    register(tag, lane, bk, namespace, caps)
  end
  collect(batch, 'ZADD', batch.due, due or '+inf', e)
  if not delayed then
    local score = at - priority * PRIORITY_STEP
    collect(batch, 'ZADD', el, score, e)
    local woken = batch.woken
    if not woken or not woken[lane] then -- who hears of the first looks for the others
      if woken then
        woken[lane] = true
      end
      wake(tag, lane, namespace, caps, score, e)
    end
  end
  return 'c' .. public
end

-- ff_create_execution (batch)
-- KEYS 1 routing key
-- ARGV 8 an item: e, lane, namespace, bucket, capabilities (joined by commas),
--      def, options, state of a lane that takes nothing new. Options are empty
--      or priority, delay_until, deadline (absolute), deadline_ms (duration),
--      attempt timeout, retention, max_reclaim_count and tags as JSON, with a space
--      between them, each possibly empty
-- Returns per item 'c<public_state>', 'd<digest of the first>' or '!refusal'.
redis.register_function('ff_create_execution', function(keys, a)
  local tag = enter(keys)
  local at, created = now()
  if #a == 8 then
    return { create(tag, a, 1, at, created, new_batch(tag, true)) }
  end
  local out, batch = {}, new_batch(tag)
  for i = 1, #a, 8 do
    out[#out + 1] = create(tag, a, i, at, created, batch)
  end
  settle(batch)
  return out
end)

-- ff_reserve (batch)
-- KEYS 1 routing key of the partition of the idempotency keys
-- ARGV 4 an item: namespace, key, execution id, ttl in ms
-- Returns per item the execution id that holds the reservation.
redis.register_function('ff_reserve', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local out = {}
  for i = 1, #a, 4 do
    local key = 'ff:idem:' .. tag .. ':' .. a[i] .. ':' .. a[i + 1]
    local held = redis.call('GET', key)
    local id, expires
    if held then
      id, expires = string.match(held, '^([^\n]*)\n(%d+)$')
    end
    if id and tonumber(expires) > at then
      out[#out + 1] = id
    else
      redis.call('SET', key, a[i + 2] .. '\n' .. S(at + a[i + 3]), 'PX', a[i + 3])
      out[#out + 1] = a[i + 2]
    end
  end
  return out
end)
