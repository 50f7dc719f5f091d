-- The lane primitive: records of lanes, the buckets of a lane on one partition
-- with their route labels, what can be counted in a lane, its sweep, and the
-- slots of its max_concurrency. (Specification 02, sections 8 and 9; 07, section
-- 3.6.)

-- bucket_names returns the names of the buckets in a registry, fields as HGETALL
-- gives them, and the registry as a table.
local function bucket_names(tag, lane)
  local flat = redis.call('HGETALL', lane_key(tag, lane, 'buckets'))
  local names, fields = {}, {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
    if flat[i] ~= 'v' and string.byte(flat[i], 2) ~= 58 then
      names[#names + 1] = flat[i]
    end
  end
  return names, fields
end

local function offered_in(tag, lane, bk)
  return redis.call('ZCARD', lane_key(tag, lane, 'el:' .. bk))
end

-- each_partition answers for the partition of the routing key and then for those
-- whose tags follow the first n arguments: an array for each.
local function each_partition(keys, a, n, look)
  local out = { look(enter(keys)) }
  for i = n + 1, #a do
    out[#out + 1] = look(a[i])
  end
  return out
end

-- listed_lanes returns the lanes that follow their number, and where they end.
local function listed_lanes(a)
  local n = tonumber(a[1])
  return { unpack(a, 2, n + 1) }, n + 1
end

-- ff_lane_update
-- KEYS 1 routing key ff:lane:<lane>:config
-- ARGV revision expected ('' for no record), record as JSON, its revision
-- Returns {'1'}, or {'0', the record there is, or ''} when the lane is at another
--      revision.
redis.register_function('ff_lane_update', function(keys, a)
  local v = redis.call('HMGET', keys[1], 'v', 'rec')
  if (v[1] or '') ~= a[1] then
    return { '0', v[2] or '' }
  end
  redis.call('HSET', keys[1], 'rec', a[2], 'v', a[3])
  return { '1' }
end)

-- ff_lane_delete
-- That a worker once named the lane stays.
-- KEYS 1 routing key ff:lane:<lane>:config
-- ARGV revision expected
-- Returns {'1'}, or {'0'} when the lane is at another revision or gone.
redis.register_function('ff_lane_delete', function(keys, a)
  if redis.call('HGET', keys[1], 'v') ~= a[1] then
    return { '0' }
  end
  redis.call('HDEL', keys[1], 'rec', 'v')
  return { '1' }
end)

-- ff_list_labels
-- KEYS 1 routing key
-- ARGV number of lanes, lanes, then the tags of other partitions to look at as well
--      (on one node only)
-- Returns for each partition 3 for each labelled bucket: lane, bucket, descriptor.
redis.register_function{ function_name = 'ff_list_labels', flags = { 'no-writes' }, callback = function(keys, a)
  local lanes, n = listed_lanes(a)
  return each_partition(keys, a, n, function(tag)
    local out = {}
    for _, lane in ipairs(lanes) do
      local names, fields = bucket_names(tag, lane)
      for _, bk in ipairs(names) do
        if fields['u:' .. bk] then
          local i = #out
          out[i + 1], out[i + 2], out[i + 3] = lane, bk, fields[bk]
        end
      end
    end
    return out
  end)
end }

-- ff_list_buckets
-- KEYS 1 routing key
-- ARGV '1' to list also the buckets that are empty and without label, then the tags
--      of other partitions to look at as well (on one node only)
-- Returns for each partition 5 for each bucket: lane, bucket, descriptor, uncovered
--      since (or ''), members offered.
redis.register_function{ function_name = 'ff_list_buckets', flags = { 'no-writes' }, callback = function(keys, a)
  return each_partition(keys, a, 1, function(tag)
    local out = {}
    for _, lane in ipairs(redis.call('SMEMBERS', 'ff:idx:' .. tag .. ':lanes')) do
      local names, fields = bucket_names(tag, lane)
      for _, bk in ipairs(names) do
        local n, since = offered_in(tag, lane, bk), fields['u:' .. bk]
        if n > 0 or since or a[1] == '1' then
          local i = #out
          out[i + 1], out[i + 2], out[i + 3], out[i + 4], out[i + 5] = lane, bk, fields[bk], since or '', S(n)
        end
      end
    end
    return out
  end)
end }

-- ff_mark_bucket (batch)
-- Labels buckets that no live worker covers. One that is empty gets no label, but
-- for one that is known to have a member, which a lapsed grant may still hide; one
-- that has it is told of the mismatch, once a second.
-- KEYS 1 routing key
-- ARGV '1' where the buckets have members, then 2 an item: lane, bucket
-- Returns per item '1' when the label is new, '2' when it was there, '0' without.
redis.register_function('ff_mark_bucket', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local out = {}
  for i = 2, #a, 2 do
    local lane, bk = a[i], a[i + 1]
    local registry = lane_key(tag, lane, 'buckets')
    local v = redis.call('HMGET', registry, bk, 'u:' .. bk, 'm:' .. bk)
    out[#out + 1] = '0'
    if v[2] then
      out[#out] = '2'
      if at - tonumber(v[3] or 0) >= 1000 then
        redis.call('HSET', registry, 'm:' .. bk, S(at))
      end
    elseif v[1] and (a[1] == '1' or offered_in(tag, lane, bk) > 0) then
      redis.call('HSET', registry, 'u:' .. bk, S(at), 'm:' .. bk, S(at))
      out[#out] = '1'
    end
  end
  return out
end)

-- ff_lift_bucket (batch)
-- Takes labels off, and tells those who wait about the members.
-- KEYS 1 routing key
-- ARGV 2 an item: lane, bucket
-- Returns per item how many members the label no longer covers, '' when there was
--      no label.
redis.register_function('ff_lift_bucket', function(keys, a)
  local tag = enter(keys)
  local out = {}
  for i = 1, #a, 2 do
    local lane, bk = a[i], a[i + 1]
    local registry = lane_key(tag, lane, 'buckets')
    out[#out + 1] = ''
    if redis.call('HDEL', registry, 'u:' .. bk) == 1 then
      local n = offered_in(tag, lane, bk)
      out[#out] = S(n)
      local namespace, caps = string.match(redis.call('HGET', registry, bk) or '', '^([^\n]*)\n(.*)$')
      local head = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, 0, 'WITHSCORES')
      if head[2] and namespace then
        wake(tag, lane, namespace, caps, tonumber(head[2]), head[1])
      end
    end
  end
  return out
end)

-- ff_age_bucket (batch)
-- Notes which buckets are empty, and removes from the registry those that were so
-- for a day. Whoever inserts a member puts the descriptor back.
-- KEYS 1 routing key
-- ARGV 2 an item: lane, bucket
-- Returns per item '1' when the bucket was removed, else '0'.
redis.register_function('ff_age_bucket', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local out = {}
  for i = 1, #a, 2 do
    local lane, bk = a[i], a[i + 1]
    local registry = lane_key(tag, lane, 'buckets')
    local since = redis.call('HGET', registry, 'e:' .. bk)
    out[#out + 1] = '0'
    if offered_in(tag, lane, bk) > 0 then
      if since then
        redis.call('HDEL', registry, 'e:' .. bk)
      end
    elseif not since then
      if redis.call('HEXISTS', registry, bk) == 1 then
        redis.call('HSET', registry, 'e:' .. bk, S(at))
      end
    elseif at - tonumber(since) >= MS_DAY then
      redis.call('HDEL', registry, bk, 'u:' .. bk, 'm:' .. bk, 'e:' .. bk)
      redis.call('HINCRBY', registry, 'v', 1)
      out[#out] = '1'
    end
  end
  return out
end)

-- ff_count_lanes
-- Counts a page of the partition's executions by lane and public state. A member
-- that moves while pages are read is seen; one may be seen twice when the table of
-- a large partition shrinks meanwhile.
-- KEYS 1 routing key
-- ARGV cursor ('0' to begin)
-- Returns {next cursor ('0' at the end), executions looked at}, then 3 for each
--      lane and state: lane, public_state, count.
redis.register_function{ function_name = 'ff_count_lanes', flags = { 'no-writes' }, callback = function(keys, a)
  local tag = enter(keys)
  local due = 'ff:idx:' .. tag .. ':due'
  local cursor, step, members = '0', 1
  if a[1] == '0' and redis.call('ZCARD', due) <= 1000 then
    members = redis.call('ZRANGE', due, 0, -1)
  else
    local page = redis.call('ZSCAN', due, a[1], 'COUNT', 1000)
    cursor, members, step = page[1], page[2], 2
  end
  local counts, examined = {}, 0
  for i = 1, #members, step do
    local v = redis.call('HMGET', exec_key(tag, members[i], 'core'), 'lane_id', 'public_state')
    if v[1] and v[2] then
      local lane = counts[v[1]] or {}
      counts[v[1]] = lane
      lane[v[2]] = (lane[v[2]] or 0) + 1
    end
    examined = examined + 1
  end
  local out = { cursor, S(examined) }
  for lane, states in pairs(counts) do
    for state, n in pairs(states) do
      local i = #out
      out[i + 1], out[i + 2], out[i + 3] = lane, state, S(n)
    end
  end
  return out
end }

-- oldest_in is the creation of the oldest member of a bucket: within one priority
-- it is the first, so one look for every priority in use.
local function oldest_in(key, at)
  local from, oldest = '-inf', nil
  while true do
    local head = redis.call('ZRANGEBYSCORE', key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if #head == 0 then
      return oldest
    end
    local score = tonumber(head[2])
    local priority = at > score and (at - score - (at - score) % PRIORITY_STEP) / PRIORITY_STEP or 0
    oldest = sooner(score + priority * PRIORITY_STEP, oldest)
    if priority == 0 then
      return oldest
    end
    from = S(at - priority * PRIORITY_STEP + 1)
  end
end

-- lost_in is how many of the lane's active executions have a lapsed or revoked
-- lease, as far as that is quickly told: those may be offered too.
local function lost_in(key, active)
  local n = 0
  if active > 0 and active <= 1000 then
    for _, holder in ipairs(redis.call('HVALS', key)) do
      n = n + (string.byte(holder) == 45 and 1 or 0)
    end
  end
  return n
end

-- depth_of is what the indexes tell of a lane on a partition.
local function depth_of(tag, lane, at)
  local oldest
  local offered = 0
  for _, bk in ipairs((bucket_names(tag, lane))) do
    local n = offered_in(tag, lane, bk)
    if n > 0 then
      offered = offered + n
      oldest = sooner(oldest, oldest_in(lane_key(tag, lane, 'el:' .. bk), at))
    end
  end
  local function blocked(kind)
    return redis.call('ZCARD', lane_key(tag, lane, 'blocked:' .. kind))
  end
  local key = lane_key(tag, lane, 'active')
  local active = redis.call('HLEN', key)
  local waiting = math.max(offered - lost_in(key, active), 0) + blocked('lane_state') + blocked('operator')
  return (oldest and S(oldest) or '0') .. ' ' .. waiting .. ' ' .. active .. ' ' .. blocked('dependencies') .. ' ' ..
    blocked('budget') + blocked('quota')
end

-- ff_lane_depths
-- KEYS 1 routing key
-- ARGV number of lanes, lanes, then the tags of other partitions to look at as well
--      (on one node only)
-- Returns for each partition, per lane, '' when it never had a member there, else
--      the creation of its oldest offered execution (0 without one) and how many
--      are waiting, active, waiting for children and rate limited, as the indexes
--      have it, a space between them.
redis.register_function{ function_name = 'ff_lane_depths', flags = { 'no-writes' }, callback = function(keys, a)
  local at = now()
  local lanes, n = listed_lanes(a)
  return each_partition(keys, a, n, function(tag)
    local here, out = {}, {}
    for _, lane in ipairs(redis.call('SMEMBERS', 'ff:idx:' .. tag .. ':lanes')) do
      here[lane] = true
    end
    for i, lane in ipairs(lanes) do
      out[i] = here[lane] and depth_of(tag, lane, at) or ''
    end
    return out
  end)
end }

-- ff_stray_lanes
-- KEYS 1 routing key
-- ARGV number of lanes that are disabled, those lanes, then the tags of other
--      partitions to look at as well (on one node only)
-- Returns for each partition the lanes with members where the lane's state does not
--      want them: offered ones in a disabled lane, blocked ones in another.
redis.register_function{ function_name = 'ff_stray_lanes', flags = { 'no-writes' }, callback = function(keys, a)
  local lanes, last = listed_lanes(a)
  local shut = {}
  for _, lane in ipairs(lanes) do
    shut[lane] = true
  end
  return each_partition(keys, a, last, function(tag)
    local out = {}
    for _, lane in ipairs(redis.call('SMEMBERS', 'ff:idx:' .. tag .. ':lanes')) do
      local n = 0
      if shut[lane] then
        for _, bk in ipairs((bucket_names(tag, lane))) do
          n = n + offered_in(tag, lane, bk)
        end
      else
        n = redis.call('ZCARD', lane_key(tag, lane, 'blocked:lane_state'))
      end
      if n > 0 then
        out[#out + 1] = lane
      end
    end
    return out
  end)
end }

-- block_members moves offered members of a disabled lane off the order of
-- claimers. Lapsed and revoked leases stay where they are: they are active.
local function block_members(tag, lane, limit, at)
  local moved = 0
  for _, bk in ipairs((bucket_names(tag, lane))) do
    local key = lane_key(tag, lane, 'el:' .. bk)
    local from, page = 0, limit
    while moved < limit and page == limit and from < 10 * limit do
      local members = redis.call('ZRANGE', key, from, from + limit - 1)
      page = #members
      for _, e in ipairs(members) do
        local r = moved < limit and record_load(tag, e)
        if r and blockable(r, at) then
          block(r, 'L', nil, at)
          if commit(r, at) == nil then
            moved = moved + 1
          else
            from = from + 1
          end
        else
          from = from + 1
        end
      end
    end
  end
  return moved
end

-- unblock_members offers again what a disabled lane has blocked.
local function unblock_members(tag, lane, limit, at, offers)
  local moved = 0
  local key = lane_key(tag, lane, 'blocked:lane_state')
  for _, e in ipairs(redis.call('ZRANGE', key, 0, limit - 1)) do
    local r, refused = record_load(tag, e)
    if r and letter(r) == 'L' then
      make_eligible(r)
      if commit(r, at) == nil then
        moved = moved + 1
        offers[#offers + 1] = r.offer
      end
    elseif r or string.sub(refused, 1, 20) == '!execution_not_found' then
      redis.call('ZREM', key, e)
    end
  end
  return moved
end

-- ff_sweep_lane
-- KEYS 1 routing key
-- ARGV lane, '1' when it is disabled, limit
-- Returns {how many members were moved, then the offers that made}.
redis.register_function('ff_sweep_lane', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local sweep = a[2] == '1' and block_members or unblock_members
  local out = { '' }
  out[1] = S(sweep(tag, a[1], tonumber(a[3]), at, out))
  return out
end)

-- Slots of max_concurrency: members of ff:lane:<lane>:slots, score = instant at
-- which one lapses that is not confirmed, +inf for a lease. SLOTS_WANTED, below
-- them all, notes that a claim found too few.
local SLOTS_WANTED = '!'

-- free_slots removes holders and returns how many of them held a slot.
local function free_slots(key, members, from, to)
  local freed = 0
  for i = from, to do
    freed = freed + redis.call('ZREM', key, members[i])
  end
  return freed
end

-- ff_take_slots
-- KEYS 1 routing key ff:lane:<lane>:slots
-- ARGV bound (0 for none), ms until they lapse, tokens
-- Returns {how many of the tokens, from the first on, hold a slot now}.
redis.register_function('ff_take_slots', function(keys, a)
  local key, at = keys[1], now()
  redis.call('ZREMRANGEBYSCORE', key, 0, S(at))
  local n, bound = #a - 2, tonumber(a[1])
  if bound > 0 then
    local left = bound - redis.call('ZCOUNT', key, 0, '+inf')
    if left < n then
      n = left > 0 and left or 0
      redis.call('ZADD', key, '-inf', SLOTS_WANTED)
    end
  end
  for i = 3, n + 2 do
    redis.call('ZADD', key, S(at + a[2]), a[i])
  end
  return { S(n) }
end)

-- ff_settle_slots
-- Puts holders in the place of tokens; the tokens that are left over are freed.
-- KEYS 1 routing key ff:lane:<lane>:slots
-- ARGV number of tokens, tokens, then 2 for each holder: holder, instant at which
--      it lapses ('' for a lease)
-- Returns {'1' when a slot became free that somebody waits for, else '0'}.
redis.register_function('ff_settle_slots', function(keys, a)
  local key, tokens = keys[1], tonumber(a[1])
  local freed = free_slots(key, a, 2, tokens + 1)
  for i = tokens + 2, #a, 2 do
    freed = freed - redis.call('ZADD', key, a[i + 1] == '' and '+inf' or a[i + 1], a[i])
  end
  return { freed > 0 and redis.call('ZREM', key, SLOTS_WANTED) == 1 and '1' or '0' }
end)

-- ff_free_slots
-- KEYS 1 routing key ff:lane:<lane>:slots
-- ARGV holders or tokens
-- Returns {how many held a slot, '1' when somebody waits for one, else '0'}.
redis.register_function('ff_free_slots', function(keys, a)
  local freed = free_slots(keys[1], a, 1, #a)
  return { S(freed), freed > 0 and redis.call('ZREM', keys[1], SLOTS_WANTED) == 1 and '1' or '0' }
end)

-- ff_lane_slots
-- KEYS 1 routing key
-- ARGV lane, then the tags of other partitions to look at as well (on one node only)
-- Returns for each partition 2 for each lease that holds a slot: e, holder.
redis.register_function{ function_name = 'ff_lane_slots', flags = { 'no-writes' }, callback = function(keys, a)
  return each_partition(keys, a, 1, function(tag)
    local active = redis.call('HGETALL', lane_key(tag, a[1], 'active'))
    local out = {}
    for i = 1, #active, 2 do
      if string.byte(active[i + 1]) ~= 45 then
        local slot = redis.call('HGET', exec_key(tag, active[i], 'core'), 'slot')
        if slot then
          local k = #out
          out[k + 1], out[k + 2] = active[i], slot
        end
      end
    end
    return out
  end)
end }

-- ff_outbox_due
-- KEYS 1 routing key
-- ARGV limit, then the tags of other partitions to look at as well (on one node only)
-- Returns for each partition the entries of the outbox whose time has come.
redis.register_function{ function_name = 'ff_outbox_due', flags = { 'no-writes' }, callback = function(keys, a)
  local at = S(now())
  local outboxes = {}
  local out = each_partition(keys, a, 1, function(tag)
    outboxes[#outboxes + 1] = 'ff:idx:' .. tag .. ':outbox'
    return {}
  end)
  if redis.call('EXISTS', unpack(outboxes)) == 0 then
    return out
  end
  for i, key in ipairs(outboxes) do
    out[i] = redis.call('ZRANGEBYSCORE', key, '-inf', at, 'LIMIT', 0, a[1])
  end
  return out
end }

-- ff_outbox_ack
-- KEYS 1 routing key
-- ARGV entries that are settled
-- Returns {how many were there}.
redis.register_function('ff_outbox_ack', function(keys, a)
  local outbox = 'ff:idx:' .. enter(keys) .. ':outbox'
  local n = 0
  for _, entry in ipairs(a) do
    n = n + redis.call('ZREM', outbox, entry)
  end
  return { S(n) }
end)
