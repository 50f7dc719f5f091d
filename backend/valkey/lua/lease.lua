-- The lease primitive: renewal, lapse, revocation, hold. (Specification 02,
-- section 4.)

-- renew extends one lease. The plain case reads seven fields and writes one.
local function renew(tag, a, i, at)
  local core = exec_key(tag, a[i], 'core')
  local v = redis.call('HMGET', core, 'st', 'lx', 'lease_id', 'epoch', 'aid', 'attempts', 'ttl')
  if v[1] == 'Ar' and v[2] and tonumber(v[2]) > at and v[3] == a[i + 1] and v[4] == a[i + 2] and v[5] == a[i + 3] and
    (a[i + 4] == '' or tonumber(a[i + 4]) == v[6] - 1) then
    local ttl = a[i + 5]
    local kept = v[7] or '30000'
    local expires = S(at + (ttl ~= '' and ttl or kept))
    if ttl ~= '' and ttl ~= kept then
      redis.call('HSET', core, 'lx', expires, 'ttl', ttl)
    else
      redis.call('HSET', core, 'lx', expires)
    end
    -- due may be earlier than the truth, never later.
    if expires < v[2] and #expires == #v[2] then
      redis.call('ZADD', 'ff:idx:' .. tag .. ':due', 'LT', expires, a[i])
    end
    return v[4] .. ' ' .. expires
  end
  local r, refused = record_load(tag, a[i])
  if not r then
    return refused
  end
  local _
  _, refused = lease_bound(r, { a[i + 1], a[i + 2], a[i + 3], a[i + 4] }, nil, at, true)
  return refused or refusal('corrupt_record', 'lease', 'does not fit the state')
end

-- ff_renew_lease (batch)
-- KEYS 1 routing key
-- ARGV 6 an item: e, lease_id, epoch, attempt_id, attempt_index, ttl in ms (empty:
--      that of the claim or last renewal)
-- Returns per item '<epoch> <expires_at>' or '!refusal'.
redis.register_function('ff_renew_lease', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local out = {}
  for i = 1, #a, 6 do
    out[#out + 1] = renew(tag, a, i, at)
  end
  return out
end)

-- ff_mark_lease_expired
-- KEYS 1 routing key
-- ARGV e
-- Returns {marked_expired, '', offer} or {already_satisfied, reason}.
redis.register_function('ff_mark_lease_expired', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    if refused ~= '!execution_not_found' then
      return reply(refused)
    end
    redis.call('ZREM', 'ff:idx:' .. tag .. ':due', a[1])
    return { 'already_satisfied', 'execution_not_found' }
  end
  local where = letter(r)
  local reason
  if not OWNERSHIP[where] then
    reason = 'not_active'
  elseif where == 'X' then
    reason = 'already_expired'
  elseif where == 'V' then
    reason = 'already_revoked'
  elseif not overdue(r, at) then
    reason = 'not_yet_expired'
  end
  if reason then
    return { 'already_satisfied', reason }
  end
  mark_lapsed(r, at)
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { 'marked_expired', '', r.offer or '' }
end)

-- ff_revoke_lease
-- KEYS 1 routing key
-- ARGV e, expected lease id, reason, '1' to hold, revoked_by
-- Returns {r, lease_id, epoch, '', offer} or {s, '', '', already_revoked or
--      already_expired, offer}.
redis.register_function('ff_revoke_lease', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local f = r.f
  local where = letter(r)
  local satisfied
  if not OWNERSHIP[where] then
    return reply(not_active(r))
  elseif where == 'V' then
    satisfied = 'already_revoked'
    if a[4] == '1' and not f.hold then
      put(r, 'hold', '1')
      refused = commit(r, at)
    end
  elseif where == 'X' then
    satisfied = 'already_expired'
  elseif a[2] ~= '' and a[2] ~= f.lease_id then
    return reply(stale_lease(r))
  elseif overdue(r, at) then
    satisfied = 'already_expired'
    mark_lapsed(r, at)
    refused = commit(r, at)
  end
  if refused then
    return reply(refused)
  end
  if satisfied then
    return { 's', '', '', satisfied, r.offer or '' }
  end
  lease_event(r, 'revoked', at, a[3], nil, a[5])
  set_state(r, 'Vi')
  owe(r, at)
  put(r, 'ra', S(at))
  put(r, 'rr', a[3])
  if a[4] == '1' then
    put(r, 'hold', '1')
  end
  r.offered = a[4] ~= '1'
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { 'r', f.lease_id, f.epoch, '', r.offer or '' }
end)

-- ff_release_reclaim_hold
-- KEYS 1 routing key
-- ARGV e
-- Returns {1 when a hold was there, else 0, offer}.
redis.register_function('ff_release_reclaim_hold', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if not r.f.hold then
    return { '0' }
  end
  drop(r, 'hold')
  r.offered = true
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { '1', r.offer or '' }
end)
