-- What every other file stands on: the clock, numbers, refusals, key names,
-- texts, wake-ups. Library-level locals hold no redis.call and no math: neither
-- exists while the library loads.

local MS_DAY = 86400000
local PRIORITY_STEP = 1000000000000

-- Whether the feeds of leases and of signals are written; set anew by every call,
-- by enter.
local leases_on, signals_on = true, true

-- now is the store's clock in milliseconds, as a number and as text. It stands
-- still during a call. The text is cut out of what TIME gives: arithmetic on
-- strings costs several times as much.
local function now()
  local t = redis.call('TIME')
  local ms = string.sub('00000' .. t[2], -6, -4)
  local text = t[1] .. ms
  return tonumber(text), text
end
-- TEST CLOCK

-- S is a whole number as a decimal string, at most 2^63 - 1.
local function S(n)
  if n >= 9007199254740992 then
    if n >= 9.2233720368547e18 then
      return '9223372036854775807'
    end
    return string.format('%.0f', n)
  end
  return string.format('%d', n)
end

-- N is a field as a number, or the default.
local function N(v, default)
  if v == nil or v == '' then
    return default
  end
  return tonumber(v)
end

-- given turns the empty string into nil.
local function given(v)
  if v == '' then
    return nil
  end
  return v
end

-- sooner is the earlier of two instants; nil means never.
local function sooner(a, b)
  if a == nil or (b ~= nil and b < a) then
    return b
  end
  return a
end

-- refusal is a refused item of a batch: '!code|detail...'. refuse makes an error
-- reply of it.
local function refusal(code, ...)
  local n = select('#', ...)
  if n == 0 then
    return '!' .. code
  end
  local t = { ... }
  for i = 1, n do
    t[i] = tostring(t[i] or '')
  end
  return '!' .. code .. '|' .. table.concat(t, '|')
end

local function reply(refused)
  return redis.error_reply('FF ' .. string.sub(refused, 2))
end

local function refuse(code, ...)
  return reply(refusal(code, ...))
end

-- enter takes the routing key 'ff:{fp:N}' and returns the tag '{fp:N}'. A key
-- that goes on behind the brace carries switches: 'l' leaves the leases feed out,
-- 's' that of signals.
local function enter(keys)
  local key = keys[1]
  if string.byte(key, -1) == 125 then
    leases_on, signals_on = true, true
    return string.sub(key, 4)
  end
  local tag, switches = string.match(key, '^ff:({[^}]*})(.*)$')
  leases_on = string.find(switches, 'l', 1, true) == nil
  signals_on = string.find(switches, 's', 1, true) == nil
  return tag
end

local function exec_key(tag, e, what)
  return 'ff:exec:' .. tag .. ':' .. e .. ':' .. what
end

local function lane_key(tag, lane, what)
  return 'ff:idx:' .. tag .. ':lane:' .. lane .. ':' .. what
end

-- wake tells a claimer that found too little about an insertion: at most one
-- message for every arming.
local function wake(tag, lane, namespace, caps, score, e)
  if redis.call('DEL', lane_key(tag, lane, 'armed')) == 1 then
    redis.call('SPUBLISH', 'ff:wake:' .. tag, lane .. '\n' .. namespace .. '\n' .. caps .. '\n' ..
      string.format('%d', score) .. '\n' .. e)
  end
end

-- A batch collects what the executions of one call have in common: the writes to an
-- index and the events of a feed, each of which go together, one command in place of
-- one an item. With batch.single, the call's only item, nothing is collected.
local function new_batch(tag, single)
  return { single = single, due = 'ff:idx:' .. tag .. ':due', lane = false, active = false, woken = not single and {} }
end

-- active_of is the key of a lane's active executions; the lane is most often that of
-- the item before.
local function active_of(batch, tag, lane)
  if batch.lane ~= lane then
    batch.lane, batch.active = lane, lane_key(tag, lane, 'active')
  end
  return batch.active
end

-- append2 adds two values to a list that knows its length, which Lua would search.
local function append2(list, x, y)
  local n = list.n
  list[n + 1], list[n + 2], list.n = x, y, n + 2
end

-- writes_to is what is noted for a key of the batch, from the command on.
local function writes_to(batch, command, key)
  local writes = batch[key]
  if not writes then
    writes = { command, key, n = 2 }
    batch[key] = writes
    batch[#batch + 1] = writes
  end
  return writes
end

-- collect makes a write to an index, or notes it for settle.
local function collect(batch, command, key, x, y)
  if batch.single then
    return redis.call(command, key, x, y)
  end
  append2(writes_to(batch, command, key), x, y)
end

-- collect_removal is collect for a command that takes no second value.
local function collect_removal(batch, command, key, x)
  if batch.single then
    return redis.call(command, key, x)
  end
  local writes = writes_to(batch, command, key)
  local n = writes.n + 1
  writes[n], writes.n = x, n
end

-- settle makes the writes that were noted.
local function settle(batch)
  for i = 1, #batch do
    local writes = batch[i]
    redis.call(unpack(writes, 1, writes.n))
  end
end

-- split cuts a text at the commas.
local function split(list)
  local out = {}
  for token in string.gmatch(list, '[^,]+') do
    out[#out + 1] = token
  end
  return out
end

-- missing returns the required tokens that are not had, joined by commas and in
-- their sorted order; nil when all are.
local function missing(required, have)
  if required == '' then
    return nil
  end
  local has = {}
  for _, token in ipairs(split(have)) do
    has[token] = true
  end
  local lacks = {}
  for _, token in ipairs(split(required)) do
    if not has[token] then
      lacks[#lacks + 1] = token
    end
  end
  if #lacks == 0 then
    return nil
  end
  return table.concat(lacks, ',')
end
