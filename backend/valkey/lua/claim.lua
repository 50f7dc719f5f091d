-- The claim primitive: grants, and the claims that consume them or do without.
-- (Specification 02, section 5.)

-- disabled returns what refuses claims in a lane, nil when it is open. closed is
-- the caller's list of disabled lanes, each between line feeds: the records of
-- lanes lie on another slot.
local function disabled(lane, closed)
  if closed and string.find(closed, '\n' .. lane .. '\n', 1, true) then
    return 'lane ' .. lane .. ' is disabled'
  end
  return nil
end

local function not_leaseable(r)
  return refusal('execution_not_leaseable', r.f.public_state, OUTCOME[letter(r)] or 'none')
end

local function not_reclaimable(r)
  return refusal('execution_not_reclaimable', r.f.public_state, OWNERSHIP[letter(r)] or 'unowned')
end

local function lost(r)
  local where = letter(r)
  return where == 'X' or where == 'V'
end

-- claimable returns what a claim would do now: c, s or r; nil when it can do
-- nothing.
local function claimable(r)
  if lost(r) then
    return 'r'
  end
  if letter(r) ~= 'W' then
    return nil
  end
  return second(r) == 'i' and 's' or 'c'
end

-- end_at_cap ends an execution whose reclaims are used up.
local function end_at_cap(r, at)
  local count, limit = r.f.reclaims or '0', r.f.mrc or '1000'
  local running = live(r)
  put(r, 'failure_reason', 'max_reclaims_exceeded')
  put(r, 'failure_category', 'infra_crash')
  release(r, 'm', 's', 'max_reclaims_exceeded', at)
  finish_execution(r, 'f', 'reclaim_cap', at, running and 'fo' or nil)
  return commit(r, at) or refusal('reclaim_cap_exceeded', count, limit), count, limit
end

-- write_grant writes a grant once the state is known to fit. g: {id, worker,
-- instance, caps, digest, ttl, route, adm, refs, issuer, slot}. It returns a
-- refusal or nil.
local function write_grant(r, kind, g, at)
  if live_grant(r.f, at) then
    return refusal('grant_already_exists')
  end
  local lacks = missing(requirement(r), g.caps)
  if lacks then
    put(r, 'mm', S(at))
    return commit(r, at) or refusal('capability_mismatch', lacks)
  end
  drop_grant(r, at)
  clear_grant(r)
  put(r, 'grant', kind .. g.issuer .. '-:' .. S(at + g.ttl) .. ':' .. S(at))
  put(r, 'grant_id', g.id)
  put(r, 'grant_worker', g.worker)
  put(r, 'grant_instance', g.instance)
  put(r, 'grant_ch', g.digest)
  put_text(r, 'grant_route', g.route)
  put_text(r, 'grant_adm', g.adm)
  if g.refs ~= '' then
    put(r, 'admission_refs', g.refs)
  end
  if g.slot then
    put(r, 'slot', g.slot)
  end
  return commit(r, at)
end

-- ff_issue_claim_grant
-- KEYS 1 routing key
-- ARGV e, lane, worker, instance, capabilities, digest, grant_id, ttl, route,
--      admission summary, admission refs, issuer (s, d, o), disabled lanes
-- Returns {expires_at, kind c or s}.
redis.register_function('ff_issue_claim_grant', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local closed = disabled(a[2], a[13])
  if closed then
    return refuse('lane_disabled', closed)
  end
  local kind = claimable(r)
  if not kind or kind == 'r' or a[2] ~= r.f.lane_id then
    return reply(not_eligible(r))
  end
  refused = write_grant(r, kind, {
    id = a[7], worker = a[3], instance = a[4], caps = a[5], digest = a[6], ttl = a[8],
    route = a[9], adm = a[10], refs = a[11], issuer = a[12],
  }, at)
  if refused then
    return reply(refused)
  end
  return { S(at + a[8]), kind }
end)

-- ff_issue_reclaim_grant
-- KEYS 1 routing key
-- ARGV e, lane, worker, instance, capabilities, digest, grant_id, ttl, disabled
--      lanes
-- Returns {g, expires_at, kind s or r}, {n, detail} or {m, count, cap}.
redis.register_function('ff_issue_reclaim_grant', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if overdue(r, at) then
    mark_lapsed(r, at)
    local broken = commit(r, at)
    if broken then
      return reply(broken)
    end
  end
  local kind = claimable(r)
  if not kind or kind == 'c' then
    return { 'n', 'execution_not_reclaimable' }
  end
  if a[2] ~= r.f.lane_id then
    return { 'n', 'lane_mismatch' }
  end
  if live_grant(r.f, at) then
    return refuse('grant_already_exists')
  end
  local lacks = missing(requirement(r), a[5])
  if lacks then
    return { 'n', 'capability_mismatch: ' .. lacks }
  end
  local closed = disabled(r.f.lane_id, a[9])
  if closed then
    return { 'n', 'admission_denied: ' .. closed }
  end
  if kind == 'r' and at_cap(r.f) then
    local count, cap
    refused, count, cap = end_at_cap(r, at)
    if string.sub(refused, 2, 21) ~= 'reclaim_cap_exceeded' then
      return reply(refused)
    end
    return { 'm', count, cap }
  end
  refused = write_grant(r, kind, {
    id = a[7], worker = a[3], instance = a[4], caps = a[5], digest = a[6], ttl = a[8], route = '', adm = '', refs = '', issuer = 'o',
  }, at)
  if refused then
    return reply(refused)
  end
  return { 'g', S(at + a[8]), kind }
end)

-- withdraw_grant removes a grant and offers the execution again at its old place.
local function withdraw_grant(r, at)
  clear_grant(r)
  owe(r, at)
  r.offered = true
  return commit(r, at)
end

-- ff_release_grant
-- KEYS 1 routing key
-- ARGV e, grant_id, worker
-- Returns {1 when the caller held it, else 0, offer}.
redis.register_function('ff_release_grant', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if not live_grant(r.f, at) or get(r, 'grant_id') ~= a[2] or get(r, 'grant_worker') ~= a[3] then
    return { '0' }
  end
  local broken = withdraw_grant(r, at)
  if broken then
    return reply(broken)
  end
  return { '1', r.offer or '' }
end)

-- start_attempt makes the next attempt, already running under the new lease.
local function start_attempt(r, c, typ, reason, at)
  local f = r.f
  clear_attempt(r)
  if typ ~= 'c' and f.pend then
    typ = f.pend
    if typ == 'p' then
      reason = get(r, 'pend_reason') or 'manual'
      put(r, 'arb', get(r, 'pend_by') or 'operator')
    else
      reason = get(r, 'pend_reason') or get(r, 'failure_reason')
    end
    drop(r, 'pend', 'pend_reason', 'pend_by')
  end
  put(r, 'at', typ)
  put_text(r, 'arr', reason)
  if f.started_at then
    put(r, 'ast', S(at))
  else
    put(r, 'started_at', S(at))
  end
  put(r, 'attempts', S(N(f.attempts, 0) + 1))
  put(r, 'aid', c.attempt)
  if f.to and f.to ~= '0' then
    put(r, 'attempt_due', S(at + f.to))
  end
  put_text(r, 'route', c.route)
  put_text(r, 'adm', c.adm)
  drop(r, 'pp', 'pm', 'pt')
end

local REASON = { c = 'claim', d = 'direct', o = 'operator', s = 'claim' }

-- take makes the lease, and the attempt unless a paused one continues. c: {worker,
-- instance, caps, digest, lease, attempt, ttl, issuer, route, adm, slot}.
local function take(r, kind, c, at)
  local f = r.f
  local prev = { f.lease_id or '', f.epoch or '0', get(r, 'wi') or '', S(math.max(N(f.attempts, 0) - 1, 0)) }
  local why = letter(r) == 'V' and 'lease_revoked' or 'lease_expired'
  -- A grant that lapsed unseen gives back what it holds; a live one hands it on.
  if grant_open(f) and not live_grant(f, at) then
    drop_grant(r, at)
  end
  clear_grant(r)
  if f.le and not f.le_l then
    put(r, 'le_l', f.lease_id)
    put(r, 'le_a', f.aid)
  end
  if kind == 'r' then
    archive(r, { state = 'interrupted_reclaimed', at = at, reason = why })
    put(r, 'pl', f.lease_id)
  else
    drop(r, 'pl')
  end
  put(r, 'epoch', S(N(f.epoch, 0) + 1))
  put(r, 'lease_id', c.lease)
  put(r, 'worker', c.worker)
  put(r, 'wi', c.instance)
  put(r, 'lx', S(at + c.ttl))
  put(r, 'ttl', c.ttl ~= '30000' and c.ttl or nil)
  put(r, 'ch', c.digest)
  if c.slot then
    put(r, 'slot', c.slot)
  end
  if kind == 's' then
    local left = string.match(f.pz or '', '^.:%d+:(%-?%d+)$')
    put(r, 'rs', S(at))
    drop(r, 'pz', 'sid', 'attempt_due')
    if left then
      put(r, 'attempt_due', S(math.max(1, at + left)))
    end
  else
    if kind == 'r' then
      put(r, 'reclaims', S(N(f.reclaims, 0) + 1))
    end
    start_attempt(r, c, kind == 'r' and 'c' or nil, kind == 'r' and why or nil, at)
  end
  clear_loss(r)
  clear_block(r)
  if f.le_l or f.pl or f.slot or f.admission_refs or f.replays or f.failure_reason or f.flow_id then
    set_flag(r, 'o')
  end
  set_state(r, 'Ar')
  if kind == 'c' then
    lease_event(r, 'acquired', at, REASON[c.issuer], f.lx)
  elseif kind == 's' then
    lease_event(r, 'resumed', at, nil, f.lx)
  else
    lease_event(r, 'reclaimed', at, nil, f.lx, nil, prev)
  end
  return commit(r, at)
end

-- kind_of_lease is what the last claim was, as its task tells.
local function kind_of_lease(f)
  if f.rs then
    return 's'
  end
  return f.at == 'c' and 'r' or 'c'
end

-- task is what a claimer gets: all that it needs to run the attempt, but for a large
-- definition, which it reads behind the claim.
local function task(r, at, replayed)
  local f = r.f
  return {
    S(at), r.e, S(N(f.attempts, 0) - 1), f.aid, f.at or '', kind_of_lease(f), f.lease_id, f.epoch,
    f.lx, f.attempt_due or '', f.deadline or '', f.reclaims or '0', f.fb or '0', f.flow_id or '', get(r, 'namespace'),
    get(r, 'route') or '', get(r, 'adm') or '', get(r, 'wi'), tags_json(r),
    not flag(r, 'p') and (redis.call('GET', exec_key(r.tag, r.e, 'def')) or ''), replayed and '1' or '0', f.lane_id,
  }
end

-- repeated recognises a claim that has been made before, by lease and instance.
local function repeated(r, c, at)
  local f = r.f
  if not OWNERSHIP[letter(r)] or f.lease_id ~= c.lease or get(r, 'wi') ~= c.instance then
    return nil
  end
  if letter(r) == 'V' then
    return nil, lease_revoked(r)
  end
  if letter(r) == 'X' or overdue(r, at) then
    return nil, lease_expired(r)
  end
  return task(r, at, true)
end

-- ff_claim_granted
-- KEYS 1 routing key
-- ARGV e, grant_id, lane, worker, instance, capabilities, digest, lease_id,
--      attempt_id, ttl, expect ('' any, c, s, r)
-- Returns a task (22 values): now, e, attempt index, attempt id, type, kind,
--      lease_id, epoch, expires_at, attempt due, deadline, reclaims, fallback
--      index, flow, namespace, route, admission, instance, tags, def (nil where it is
--      large), replayed, lane.
redis.register_function('ff_claim_granted', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local f = r.f
  local c = { worker = a[4], instance = a[5], caps = a[6], digest = a[7], lease = a[8], attempt = a[9], ttl = a[10] }
  local expect = a[11]
  local done
  done, refused = repeated(r, c, at)
  if done then
    return done
  elseif refused then
    return reply(refused)
  end
  if not f.grant or get(r, 'grant_id') ~= a[2] or get(r, 'grant_worker') ~= c.worker or a[3] ~= f.lane_id then
    return refuse('invalid_claim_grant')
  end
  local kind, issuer, expires = grant_parts(f)
  if at >= expires then
    return refuse('claim_grant_expired', S(expires))
  end
  local where = letter(r)
  local paused = second(r) == 'i'
  if expect == 'r' and kind ~= 'r' then
    return reply(not_reclaimable(r))
  elseif expect ~= 'r' and expect ~= '' and kind == 'r' then
    return reply(not_leaseable(r))
  elseif expect == 'c' and where == 'W' and paused then
    return refuse('use_claim_resumed_execution')
  elseif expect == 's' and where == 'W' and not paused then
    return refuse('not_a_resumed_execution')
  end
  if kind == 'r' then
    if not lost(r) then
      refused = not_reclaimable(r)
    end
  elseif where ~= 'W' then
    refused = not_leaseable(r)
  else
    kind = claimable(r)
  end
  if not refused then
    local lacks = missing(requirement(r), c.caps)
    refused = lacks and refusal('capability_mismatch', lacks) or nil
  end
  if refused then
    if grant_open(f) then
      refused = withdraw_grant(r, at) or refused
    end
    return reply(refused)
  end
  if kind == 'r' and at_cap(f) then
    return reply((end_at_cap(r, at)))
  end
  c.issuer, c.route, c.adm = issuer, get(r, 'grant_route'), get(r, 'grant_adm')
  refused = take(r, kind, c, at)
  if refused then
    return reply(refused)
  end
  return task(r, at)
end)

-- grant_and_claim grants and claims in one step: paused attempts are resumed,
-- lapsed or revoked leases reclaimed, an overdue lease being marked first. It
-- returns a task, or nil and a refusal.
local function grant_and_claim(r, lane, c, override, at, closed)
  local f = r.f
  local done, refused = repeated(r, c, at)
  if done or refused then
    return done, refused
  end
  closed = disabled(f.lane_id, closed)
  if closed then
    return nil, refusal('lane_disabled', closed)
  end
  if live_grant(f, at) and get(r, 'grant_worker') ~= c.worker then
    return nil, refusal('grant_already_exists')
  end
  if overdue(r, at) then
    mark_lapsed(r, at)
    refused = commit(r, at)
    if refused then
      return nil, refused
    end
  end
  if letter(r) == 'A' then
    return nil, refusal('lease_conflict', f.lx)
  end
  local kind = claimable(r)
  if not kind or (lane ~= '' and lane ~= f.lane_id) or (kind == 'r' and f.hold and not override) then
    return nil, not_eligible(r)
  end
  if not override then
    local lacks = missing(requirement(r), c.caps)
    if lacks then
      return nil, refusal('capability_mismatch', lacks)
    end
  end
  if kind == 'r' and at_cap(f) then
    refused = end_at_cap(r, at)
    return nil, refused
  end
  refused = take(r, kind, c, at)
  if refused then
    return nil, refused
  end
  return task(r, at)
end

-- ff_grant_and_claim
-- KEYS 1 routing key
-- ARGV e, lane ('' any), worker, instance, capabilities, digest, lease_id,
--      attempt_id, ttl, '1' for an operator's override, issuer (s, d, o), route,
--      admission summary, disabled lanes
-- Returns a task, as ff_claim_granted.
redis.register_function('ff_grant_and_claim', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local done
  done, refused = grant_and_claim(r, a[2], {
    worker = a[3], instance = a[4], caps = a[5], digest = a[6], lease = a[7], attempt = a[8],
    ttl = a[9], issuer = a[11], route = a[12], adm = a[13],
  }, a[10] == '1', at, a[14])
  if not done then
    return reply(refused)
  end
  return done
end)
