-- Claims that choose: the merge of bucket heads. (Specification 02, section 7;
-- 07, section 3.6.)

-- candidates takes up to n of the best members out of the named buckets of a
-- lane. One bucket costs one command.
local function candidates(tag, lane, buckets, n)
  if #buckets == 1 then
    local popped = redis.call('ZPOPMIN', lane_key(tag, lane, 'el:' .. buckets[1]), n)
    local list = {}
    for i = 1, #popped, 2 do
      list[#list + 1] = popped[i]
    end
    return list
  end
  local heads = {}
  for _, bk in ipairs(buckets) do
    local flat = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, n - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      heads[#heads + 1] = { e = flat[i], score = tonumber(flat[i + 1]), bk = bk }
    end
  end
  table.sort(heads, function(x, y)
    if x.score ~= y.score then
      return x.score < y.score
    end
    return x.e < y.e
  end)
  local list = {}
  for i = 1, math.min(n, #heads) do
    redis.call('ZREM', lane_key(tag, lane, 'el:' .. heads[i].bk), heads[i].e)
    list[i] = heads[i].e
  end
  return list
end

-- lapse_due acts on what is due in the partition, so that a claimer that finds
-- too little meets no lapsed grant or lease that still hides its execution.
local function lapse_due(tag, at)
  local list = redis.call('ZRANGE', 'ff:idx:' .. tag .. ':due', '-inf', at, 'BYSCORE', 'LIMIT', 0, 20)
  for i, e in ipairs(list) do
    tick_one(tag, e, at, (at + i * 0.6180339887) % 1, {}, {})
  end
  return #list > 0
end

-- claim_first claims an execution that has never been claimed, the plain case of
-- every claim: one read, one write. It returns nil where it is something else.
local function claim_first(tag, lane, e, c, at)
  local core = exec_key(tag, e, 'core')
  local v = redis.call('HMGET', core, 'st', 'namespace', 'flags', 'to', 'deadline', 'flow_id', 'grant', 'attempts')
  local namespace = v[2]
  if v[1] ~= 'Wf' or v[3] or v[7] or v[8] or not c.more or namespace == '@' then
    return nil
  end
  local when, ends = S(at), at + c.ttl
  local expires, due, attempt_due = S(ends), ends, ''
  if v[4] then
    attempt_due = at + v[4]
    due = sooner(due, attempt_due)
    attempt_due = S(attempt_due)
  end
  if v[5] then
    due = sooner(due, tonumber(v[5]))
  end
  local more = c.more
  if v[4] then
    more = { 'attempt_due', attempt_due, unpack(more) }
  end
  redis.call('HSET', core, 'public_state', 'active', 'st', 'Ar', 'attempts', '1', 'current_attempt_id', c.attempt, 'lease_id', c.lease,
    'epoch', '1', 'lease_expires_at', expires, 'worker', c.worker, 'worker_instance', c.instance, 'started_at', when, unpack(more))
  redis.call('ZADD', 'ff:idx:' .. tag .. ':due', due, e)
  redis.call('HSET', lane_key(tag, lane, 'active'), e, c.instance)
  if leases_on then
    redis.call('XADD', 'ff:feed:' .. tag .. ':leases', 'MAXLEN', '~', '10000', '0-*', 'v',
      'acquired\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. (v[6] or '') .. '\n' .. when .. '\n0\n' .. c.attempt .. '\n\n' ..
      c.lease .. '\n1\n' .. c.worker .. '\n' .. c.instance .. '\n' .. expires .. '\n\n\n\n\n\n' .. REASON[c.issuer])
  end
  return {
    when, e, '0', c.attempt, '', 'c', c.lease, '1', expires, attempt_due, v[5] or '', '0', '0', v[6] or '', namespace, '', '',
    c.instance, '', redis.call('GET', exec_key(tag, e, 'def')) or '', '0',
  }
end

-- claim_one claims one member that was taken out of its bucket. It returns a
-- task, or nothing where the claim is refused.
local function claim_one(tag, lane, e, c, at)
  local done = claim_first(tag, lane, e, c, at)
  if done then
    return done
  end
  local r = record_load(tag, e)
  if not r then
    return nil
  end
  r.was.offered = nil -- it is out of its bucket already
  if letter(r) ~= 'W' and not lost(r) then
    return nil
  end
  done = grant_and_claim(r, lane, c, false, at)
  if not done and place(r.f).offered then
    offer(r, place(r.f).score)
  end
  return done
end

-- grant_one is claim_one for grants.
local function grant_one(tag, e, g, at)
  local r = record_load(tag, e)
  if not r then
    return nil
  end
  r.was.offered = nil
  local kind = claimable(r)
  local refused
  if not kind or (kind == 'r' and (r.f.hold or r.f.rnb)) then
    return nil
  end
  if kind == 'r' and at_cap(r.f) then
    end_at_cap(r, at)
    return nil
  end
  refused = write_grant(r, kind, g, at)
  if refused then
    if place(r.f).offered then
      offer(r, place(r.f).score)
    end
    return nil
  end
  return { e, g.id, S(at + g.ttl), kind, get(r, 'namespace') }
end

-- ff_claim_next
-- KEYS 1 routing key
-- ARGV lane, worker, instance, capabilities, digest, ttl, issuer, mode (c claims, g
--      grants), n, number of buckets, then the buckets, then n pairs: lease_id and
--      attempt_id, or grant_id and '' ; a slot token behind each pair when ARGV
--      has three values an item
-- Takes up to n executions, best first. Finding fewer arms the lane's wake-up.
-- Returns {now, taken out, head}: how many members were taken out of the buckets,
--      and the score of the next head ('' none known), then tasks (as
--      ff_claim_granted) or grants {e, grant_id, expires_at, kind, namespace}.
redis.register_function('ff_claim_next', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local lane, mode, n, nb = a[1], a[8], tonumber(a[9]), tonumber(a[10])
  local buckets = {}
  for i = 1, nb do
    buckets[i] = a[10 + i]
  end
  local base = 10 + nb
  local stride = (#a - base) / n
  local out = { S(at), '0', '' }
  local c = { worker = a[2], instance = a[3], caps = a[4], digest = a[5], ttl = a[6], issuer = a[7] }
  if mode == 'c' and stride == 2 and #a[2] <= 64 and #a[3] <= 64 and string.byte(a[2]) ~= 64 and string.byte(a[3]) ~= 64 then
    c.more = {}
    if a[5] ~= '' then
      c.more = { 'ch', a[5] }
    end
    if a[6] ~= '30000' then
      c.more[#c.more + 1], c.more[#c.more + 2] = 'ttl', a[6]
    end
  end
  local removed = 0
  for round = 1, 2 do
    local want = n - (#out - 3)
    local list = candidates(tag, lane, buckets, want)
    removed = removed + #list
    for _, e in ipairs(list) do
      local k = base + (#out - 3) * stride
      local slot = stride == 3 and given(a[k + 3]) or nil
      local done
      if mode == 'c' then
        c.lease, c.attempt, c.slot = a[k + 1], a[k + 2], slot
        done = claim_one(tag, lane, e, c, at)
      else
        done = grant_one(tag, e, {
          id = a[k + 1], worker = a[2], instance = a[3], caps = a[4], digest = a[5], ttl = a[6], issuer = a[7],
          route = '', adm = '', refs = '', slot = slot,
        }, at)
      end
      if done then
        out[#out + 1] = done
      end
    end
    if #out - 3 == n or round == 2 or (#list < want and not lapse_due(tag, at)) then
      break
    end
  end
  out[2] = S(removed)
  if #out - 3 < n then
    redis.call('SET', lane_key(tag, lane, 'armed'), '1')
  else
    local best
    for _, bk in ipairs(buckets) do
      local head = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, 0, 'WITHSCORES')
      if head[2] then
        best = sooner(best, tonumber(head[2]))
      end
    end
    out[3] = best and string.format('%.0f', best) or ''
  end
  return out
end)

-- ff_peek_buckets
-- KEYS 1 routing key
-- ARGV lane, '1' to arm the lane when nothing is there, then depth, then buckets
--      ('' stands for all that are registered)
-- Returns {v, then for each non-empty bucket: bucket, descriptor, u value, members,
--      scores and members of the first depth as '<score> <e>' joined by commas}.
redis.register_function('ff_peek_buckets', function(keys, a)
  local tag = enter(keys)
  local lane, depth = a[1], tonumber(a[3])
  local registry = lane_key(tag, lane, 'buckets')
  local buckets = {}
  if a[4] == nil or a[4] == '' then
    for _, bk in ipairs(redis.call('HKEYS', registry)) do
      if bk ~= 'v' and not string.find(bk, ':', 1, true) then
        buckets[#buckets + 1] = bk
      end
    end
  else
    for i = 4, #a do
      buckets[#buckets + 1] = a[i]
    end
  end
  local out = { redis.call('HGET', registry, 'v') or '0' }
  for _, bk in ipairs(buckets) do
    local key = lane_key(tag, lane, 'el:' .. bk)
    local flat = redis.call('ZRANGE', key, 0, depth - 1, 'WITHSCORES')
    if #flat > 0 then
      local heads = {}
      for i = 1, #flat, 2 do
        heads[#heads + 1] = string.format('%.0f', tonumber(flat[i + 1])) .. ' ' .. flat[i]
      end
      local about = redis.call('HMGET', registry, bk, 'u:' .. bk)
      out[#out + 1] = bk
      out[#out + 1] = about[1] or ''
      out[#out + 1] = about[2] or ''
      out[#out + 1] = S(redis.call('ZCARD', key))
      out[#out + 1] = table.concat(heads, ',')
    end
  end
  if #out == 1 and a[2] == '1' then
    redis.call('SET', lane_key(tag, lane, 'armed'), '1')
  end
  return out
end)
