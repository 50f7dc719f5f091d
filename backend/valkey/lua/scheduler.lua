-- Claims that choose: the merge of bucket heads. (Specification 02, section 7;
-- 07, section 3.6.)

-- candidates takes up to n of the best members out of the named buckets of a
-- lane, none whose score is above bound (nil: no bound). One bucket costs one
-- command.
local function candidates(tag, lane, buckets, n, bound)
  local list = {}
  if #buckets == 1 then
    local key = lane_key(tag, lane, 'el:' .. buckets[1])
    local popped = redis.call('ZPOPMIN', key, n)
    for i = 1, #popped, 2 do
      if bound and tonumber(popped[i + 1]) > bound then
        redis.call('ZADD', key, popped[i + 1], popped[i])
      else
        list[#list + 1] = popped[i]
      end
    end
    return list
  end
  local heads = {}
  for _, bk in ipairs(buckets) do
    local flat = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, n - 1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      local score = tonumber(flat[i + 1])
      if not bound or score <= bound then
        heads[#heads + 1] = { e = flat[i], score = score, bk = bk }
      end
    end
  end
  table.sort(heads, function(x, y)
    if x.score ~= y.score then
      return x.score < y.score
    end
    return x.e < y.e
  end)
  for i = 1, math.min(n, #heads) do
    redis.call('ZREM', lane_key(tag, lane, 'el:' .. heads[i].bk), heads[i].e)
    list[i] = heads[i].e
  end
  return list
end

-- claim_first claims an execution that has never been claimed, the plain case of
-- every claim: one read, one write. It returns its task, which tells what the
-- caller does not know: e, attempt due, deadline, flow and namespace, a line each,
-- and def beside it unless that is large; nil and what it has read where it is
-- something else.
local function claim_first(tag, lane, e, c, at, when)
  local core = exec_key(tag, e, 'core')
  local v = redis.call('HMGET', core, 'st', 'namespace', 'flags', 'to', 'deadline', 'flow_id', 'grant', 'public_state')
  local namespace, flags = v[2], v[3]
  if v[1] ~= 'Wf' or (flags and flags ~= 'p') or v[7] or not c.more or namespace == '@' or v[8] ~= 'waiting' then
    return nil, v
  end
  local due, attempt_due = c.ends, ''
  local expires = c.expires
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
  if more[1] then
    redis.call('HSET', core, unpack(more))
  end
  redis.call('HSET', core, 'public_state', 'active', 'st', 'Ar', 'attempts', '1', 'aid', c.attempt, 'lease_id', c.lease,
    'epoch', '1', 'lx', expires, 'worker', c.worker, 'wi', c.instance, 'started_at', when)
  collect(c.batch, 'ZADD', c.batch.due, due, e)
  collect(c.batch, 'HSET', c.active, e, c.instance)
  if leases_on then
    collect_event(c.batch, tag, 'leases', 'acquired\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. (v[6] or '') .. '\n' .. when ..
      '\n0\n' .. c.attempt .. '\n\n' .. c.lease .. '\n1\n' .. c.worker .. '\n' .. c.instance .. '\n' .. expires ..
      '\n\n\n\n\n\n' .. REASON[c.issuer])
  end
  local text = e .. '\n' .. attempt_due .. '\n' .. (v[5] or '') .. '\n' .. (v[6] or '') .. '\n' .. namespace
  if flags then
    return text
  end
  return { text, redis.call('GET', exec_key(tag, e, 'def')) or '' }
end

-- claim_one claims one member that was taken out of its bucket. It returns a
-- task, or nothing where the claim is refused.
local function claim_one(tag, lane, e, c, at, when)
  local done, read = claim_first(tag, lane, e, c, at, when)
  done = done or wait.claim_resumed(tag, lane, e, c, at, when, read)
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
--      grants), n, highest score to take ('' any), number of buckets, then the
--      buckets, then n times: lease_id and attempt_id, or grant_id and ''; with
--      three values each the last is the token of a slot of the lane
-- Takes up to n executions, best first. Leaving nothing arms the lane's wake-up.
-- Returns {now, taken out, next head}: how many members left the buckets, and
--      '<score> <e>' of the best one that stays; '' when none does, 'look' when besides
--      there are buckets that were not named; then the tasks, each made with
--      the lease_id and attempt_id of its place (as ff_claim_granted, or of a
--      first claim as {text, def}, or as the text alone where the definition is
--      large and is to be read behind: the text is e, attempt due, deadline,
--      flow and namespace, a line each) or grants {e, grant_id, expires_at, kind, namespace}.
redis.register_function('ff_claim_next', function(keys, a)
  local tag = enter(keys)
  local at, when = now()
  local lane, mode, n, bound, nb = a[1], a[8], tonumber(a[9]), N(a[10]), tonumber(a[11])
  local buckets = {}
  for i = 1, nb do
    buckets[i] = a[11 + i]
  end
  local base = 11 + nb
  local stride = (#a - base) / n
  local out = { when, '0', '' }
  local c = {
    worker = a[2], instance = a[3], caps = a[4], digest = a[5], ttl = a[6], issuer = a[7], route = '', adm = '', refs = '',
    lease = false, attempt = false, id = false, slot = nil,
    more = false, batch = false, active = false, ends = false, expires = false, -- of the plain case
  }
  if mode == 'c' and stride == 2 and #a[2] <= 64 and #a[3] <= 64 and string.byte(a[2]) ~= 64 and string.byte(a[3]) ~= 64 then
    c.more, c.batch = {}, new_batch(tag, n == 1)
    c.active = active_of(c.batch, tag, lane)
    c.ends = at + a[6]
    c.expires = S(c.ends)
    if a[5] ~= '' then
      c.more = { 'ch', a[5] }
    end
    if a[6] ~= '30000' then
      c.more[#c.more + 1] = 'ttl'
      c.more[#c.more + 1] = a[6]
    end
  end
  local removed = 0
  while #out - 3 < n and removed < 100 do
    local want = n - (#out - 3)
    local list = candidates(tag, lane, buckets, want, bound)
    removed = removed + #list
    for _, e in ipairs(list) do
      local k = base + (#out - 3) * stride
      c.lease, c.attempt, c.id, c.slot = a[k + 1], a[k + 2], a[k + 1], stride == 3 and given(a[k + 3]) or nil
      local done
      if mode == 'c' then
        done = claim_one(tag, lane, e, c, at, when)
      else
        done = grant_one(tag, e, c, at)
      end
      if done then
        out[#out + 1] = done
      end
    end
    if #list < want then
      break
    end
  end
  out[2] = S(removed)
  if c.batch then
    settle(c.batch)
    feed_events(tag, 'leases', c.batch)
  end
  local best, first
  for _, bk in ipairs(buckets) do
    local head = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, 0, 'WITHSCORES')
    local score = head[2] and tonumber(head[2])
    if score and (not best or score < best or (score == best and head[1] < first)) then
      best, first = score, head[1]
    end
  end
  if best then
    out[3] = string.format('%d', best) .. ' ' .. first
  else
    redis.call('SET', lane_key(tag, lane, 'armed'), '1')
    -- What entered other buckets before was heard of by nobody.
    if redis.call('HLEN', lane_key(tag, lane, 'buckets')) > nb + 1 then
      out[3] = 'look'
    end
  end
  if mode == 'c' and leases_on and #out > 3 then
    redis.call('SPUBLISH', 'ff:feed:' .. tag, 'leases')
  end
  return out
end)

-- peek describes the non-empty buckets of a lane on one partition.
local function peek(tag, lane, arm, depth)
  local registry = lane_key(tag, lane, 'buckets')
  local flat = redis.call('HGETALL', registry)
  local out = {}
  local labels = {}
  for i = 1, #flat, 2 do
    if string.sub(flat[i], 1, 2) == 'u:' then
      labels[string.sub(flat[i], 3)] = flat[i + 1]
    end
  end
  for i = 1, #flat, 2 do
    local bk = flat[i]
    if bk ~= 'v' and string.sub(bk, 2, 2) ~= ':' then
      local heads = redis.call('ZRANGE', lane_key(tag, lane, 'el:' .. bk), 0, depth - 1, 'WITHSCORES')
      if #heads > 0 then
        local list = {}
        for k = 1, #heads, 2 do
          list[#list + 1] = string.format('%d', tonumber(heads[k + 1])) .. ' ' .. heads[k]
        end
        out[#out + 1] = bk
        out[#out + 1] = flat[i + 1]
        out[#out + 1] = labels[bk] or ''
        out[#out + 1] = table.concat(list, ',')
      end
    end
  end
  if arm then
    redis.call('SET', lane_key(tag, lane, 'armed'), '1')
  end
  return out
end

-- ff_peek_buckets
-- KEYS 1 routing key
-- ARGV lane, '1' to arm the lane's wake-up, depth, then the tags of
--      other partitions to look at as well (on one node only)
-- Returns for each partition an array: for each non-empty bucket its name, its
--      descriptor, its u value and its first members as '<score> <e>' joined by
--      commas.
redis.register_function('ff_peek_buckets', function(keys, a)
  local out = { peek(enter(keys), a[1], a[2] == '1', tonumber(a[3])) }
  for i = 4, #a do
    out[#out + 1] = peek(a[i], a[1], a[2] == '1', tonumber(a[3]))
  end
  return out
end)
