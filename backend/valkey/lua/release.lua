-- What the operations of a lease holder share: the checks of specification 01,
-- section 6, the end of leases, attempts and executions, and what follows a
-- failed attempt.

-- shown_attempt is the attempt id as the record shows it: none while a new
-- attempt is pending, and none where the execution ended before that one began.
local function shown_attempt(r)
  local s = second(r)
  if s == 't' or s == 'p' or N(r.f.attempts, 0) == 0 or (OUTCOME[letter(r)] and not r.f.ae) then
    return ''
  end
  return r.f.aid or ''
end

local function not_active(r)
  local at = letter(r)
  return refusal('execution_not_active', r.f.public_state, OUTCOME[at] or 'none', r.f.epoch or '0', phase_of(at), shown_attempt(r))
end

local function lease_expired(r)
  return refusal('lease_expired', r.f.lx or '0', r.f.epoch or '0')
end

local function lease_revoked(r)
  return refusal('lease_revoked', r.f.epoch or '0', get(r, 'rr') or '')
end

local function stale_lease(r)
  return refusal('stale_lease', r.f.epoch or '0')
end

local function eligibility(r)
  return ELIGIBILITY[letter(r)] or 'not_applicable'
end

local function not_eligible(r)
  return refusal('execution_not_eligible', r.f.public_state, eligibility(r))
end

-- owe moves to the outbox what grant or lease hold elsewhere.
local function owe(r, at)
  local outbox = 'ff:idx:' .. r.tag .. ':outbox'
  if r.f.slot then
    r.owed = r.owed or {}
    r.owed[#r.owed + 1] = 'slot:' .. r.f.lane_id .. ':' .. r.e .. ':' .. r.f.slot
    put(r, 'slot', nil)
  end
  local refs = get(r, 'admission_refs')
  if refs then
    r.owed = r.owed or {}
    for ref in string.gmatch(refs, '[^\n]+') do
      r.owed[#r.owed + 1] = 'ref:' .. r.e .. ':' .. ref
    end
    put(r, 'admission_refs', nil)
  end
  if r.owed and not r.owing then
    r.owing = function()
      for _, entry in ipairs(r.owed) do
        redis.call('ZADD', outbox, at, entry)
      end
    end
  end
end

-- drop_grant ends a grant that has not been acted upon. The record of it stays,
-- so that its holder learns what happened.
local function drop_grant(r, at)
  if not grant_open(r.f) then
    return
  end
  put(r, 'grant', string.sub(r.f.grant, 1, 2) .. 'l' .. string.sub(r.f.grant, 4))
  owe(r, at)
end

local function clear_grant(r)
  drop(r, 'grant', 'grant_id', 'grant_worker', 'grant_instance', 'grant_ch', 'grant_route', 'grant_adm')
end

local function clear_loss(r)
  drop(r, 'xa', 'ra', 'rr', 'hold', 'rnb')
end

local function clear_block(r)
  drop(r, 'blocking_reason', 'blocking_detail', 'blocking_ref', 'blocked_until', 'blocked_since')
end

local function clear_attempt(r)
  drop(r, 'at', 'ast', 'arr', 'arb', 'pz', 'rs', 'ae', 'route', 'adm', 'attempt_due')
end

local function make_eligible(r)
  set_state(r, 'W' .. second(r))
  clear_block(r)
  drop(r, 'delay_until')
  r.offered = true
end

local function make_delayed(r, until_at, reason)
  set_state(r, 'D' .. second(r))
  clear_block(r)
  if reason ~= 'waiting_for_delay' then
    put(r, 'blocking_reason', reason)
  end
  put(r, 'delay_until', until_at)
end

-- live reports whether the current attempt has not ended.
local function live(r)
  local s = second(r)
  return s == 'r' or s == 'i'
end

-- time_left is how long the attempt may still run, '' without a timeout.
local function time_left(r, at)
  if not r.f.attempt_due then
    return ''
  end
  local ms = tonumber(r.f.attempt_due) - at
  return ms < 0 and '-' .. S(-ms) or S(ms)
end

-- pause_attempt stops the running attempt and saves the time it has left.
local function pause_attempt(r, kind, at)
  put(r, 'pz', kind .. ':' .. S(at) .. ':' .. time_left(r, at))
end

local ATTEMPT_TYPE = { r = 'retry', c = 'reclaim', p = 'replay', b = 'fallback' }

-- describe_attempt is the current attempt as JSON, without what Go derives from
-- the definition. ended: {state, at, reason, category, override}.
local function describe_attempt(r, ended)
  local f = r.f
  local index = N(f.attempts, 0) - 1
  local started = N(f.ast or f.started_at)
  local a = {
    attempt_id = f.aid, attempt_index = index, attempt_type = ATTEMPT_TYPE[f.at or ''] or 'initial',
    attempt_state = ended.state, created_at = started, started_at = started, resumed_at = N(f.rs), ended_at = ended.at,
    lease_id = f.lease_id, lease_epoch = N(f.epoch, 0), worker_id = get(r, 'worker'), worker_instance_id = get(r, 'wi'),
    failure_reason = given(ended.reason or ''), failure_category = given(ended.category or ''),
    terminalized_by_override = ended.override or nil,
    policy_snapshot = {
      timeout_ms = N(f.to), fallback_index = N(f.fb, 0), lane_id = f.lane_id,
      route_snapshot = get(r, 'route'), admission_summary = get(r, 'adm'),
    },
  }
  if index > 0 then
    a.previous_attempt_index = index - 1
  end
  local reason = get(r, 'arr')
  if f.at == 'r' or f.at == 'b' then
    a.retry_reason = reason
  elseif f.at == 'c' then
    a.reclaim_reason = reason
  elseif f.at == 'p' then
    a.replay_reason, a.replay_requested_by = reason, get(r, 'arb')
    if index > 0 then
      a.replayed_from_attempt_index = index - 1
    end
  end
  if f.at == 'b' then
    a.fallback_index = N(f.fb, 0)
  end
  return cjson.encode(a)
end

-- archive moves the current attempt, which has ended, out of core.
local function archive(r, ended)
  local index = S(N(r.f.attempts, 0) - 1)
  r.arch = r.arch or {}
  r.arch[#r.arch + 1] = index
  r.arch[#r.arch + 1] = describe_attempt(r, ended)
  clear_attempt(r)
  set_flag(r, 'a')
end

-- wait is what the files of waitpoints, conditions and suspensions do for each other
-- and for the rest: they are blocks of their own, for want of local names. read are
-- the reads of ff_read_waits.
local wait = { read = {} }

-- commit is save together with what else a transition noted.
local function commit(r, at)
  local broken = save(r, at)
  if broken then
    return broken
  end
  if r.waits then
    wait.flush(r)
  end
  if r.arch then
    redis.call('HSET', exec_key(r.tag, r.e, 'attempts'), unpack(r.arch))
    r.arch = nil
  end
  if r.owing then
    r.owing()
    r.owing, r.owed = nil, nil
  end
  return nil
end

-- give_up ends the lease, if one is shown, without a receipt. It reports whether
-- there was one. The state is the caller's to set.
local function give_up(r, reason, at)
  owe(r, at)
  drop(r, 'attempt_due')
  if not OWNERSHIP[letter(r)] then
    return false
  end
  lease_event(r, 'released', at, reason)
  drop(r, 'pl')
  return true
end

-- release is give_up with a receipt. rest is what the receipt tells besides.
local function release(r, op, source, reason, at, rest)
  if not give_up(r, reason, at) then
    return
  end
  put(r, 'le', op .. ':' .. source .. ':' .. r.f.epoch .. ':' .. (rest or ''))
  drop(r, 'le_l', 'le_a')
end

-- finish_execution makes the execution terminal, once attempt and lease are dealt
-- with. attempt_end is the mark of an attempt that ended with it, nil when none
-- was running or paused; waits the reason with which an open suspension closes,
-- absent where the outcome decides it.
local function finish_execution(r, outcome, cause, at, attempt_end, size, waits)
  local f = r.f
  drop_grant(r, at)
  owe(r, at)
  if flag(r, 'w') then
    wait.finish(r, waits or (outcome == 'e' and 'deadline_expired' or 'cancelled'), at)
  end
  if attempt_end then
    put(r, 'ae', attempt_end)
    drop(r, 'pz', 'sid')
  end
  local s = second(r)
  if N(f.attempts, 0) > 0 then
    s = 'T'
  elseif outcome == 'k' then
    s = 'n'
  end
  put(r, 'completed_at', S(at))
  set_state(r, outcome .. s)
  clear_block(r)
  drop(r, 'delay_until', 'attempt_due')
  clear_loss(r)
  completion(r, cause, at, size)
end

-- mark_lapsed takes an active execution from leased to lapsed.
local function mark_lapsed(r, at)
  lease_event(r, 'expired', at)
  set_state(r, 'Xi')
  put(r, 'xa', S(at))
  owe(r, at)
  r.offered = true
end

local function overdue(r, at)
  return letter(r) == 'A' and N(r.f.lx, 0) <= at
end

-- receipt_of returns the last release: op, source, lease, epoch, attempt, rest.
local function receipt_of(f)
  if not f.le then
    return nil
  end
  local op, source, epoch, rest = string.match(f.le, '^(.):(.):(%d+):(.*)$')
  return {
    op = op, source = source, epoch = epoch, rest = rest,
    lease = f.le_l or f.lease_id, attempt = f.le_a or f.aid,
  }
end

-- fence is {lease_id, epoch, attempt_id, attempt_index}; empty lease_id: none.
-- receipt_matches reports whether the last release was made by exactly this call.
local function receipt_matches(r, fence, op)
  local f = r.f
  local receipt = receipt_of(f)
  if not receipt or receipt.op ~= op or receipt.lease ~= fence[1] or receipt.epoch ~= fence[2] or receipt.attempt ~= fence[3] then
    return nil
  end
  if op ~= 'x' and receipt.source ~= 'l' then
    return nil
  end
  local index, attempts = N(fence[4]), N(f.attempts, 0)
  if not index or attempts == 0 then
    return receipt
  end
  local fits
  local next_index = string.match(receipt.rest, '^[WD]:%d+:(%d+):')
  if f.aid == receipt.attempt then
    fits = index == attempts - 1
  elseif next_index then
    fits = index + 1 == tonumber(next_index)
  else
    fits = index < attempts - 1
  end
  return fits and receipt or nil
end

-- lease_bound makes the checks of section 6 from step 4 on. It returns a receipt
-- that answers the call, or a refusal. An overdue lease is marked in the same
-- step, unless mark is false.
local function lease_bound(r, fence, op, at, mark)
  local f = r.f
  local fenced = fence[1] ~= ''
  if fenced and op then
    local receipt = receipt_matches(r, fence, op)
    if receipt then
      return receipt
    end
  end
  local where = letter(r)
  if not OWNERSHIP[where] then
    return nil, not_active(r)
  end
  if where == 'V' then
    return nil, lease_revoked(r)
  end
  if where == 'X' then
    return nil, lease_expired(r)
  end
  if N(f.lx, 0) <= at then
    local refused = lease_expired(r)
    if mark then
      mark_lapsed(r, at)
      refused = commit(r, at) or refused
    end
    return nil, refused
  end
  if fenced and (fence[1] ~= f.lease_id or fence[2] ~= f.epoch or fence[3] ~= f.aid or
    (fence[4] ~= '' and tonumber(fence[4]) ~= N(f.attempts, 0) - 1)) then
    return nil, stale_lease(r)
  end
  return nil, nil
end

local FALLS_BACK = { provider_error = true, rate_limited_by_provider = true, model_unavailable = true }

-- absent turns the null of JSON into nil.
local function absent(v)
  if v == nil or v == cjson.null then
    return nil
  end
  return v
end

local function listed(list, value)
  for _, v in ipairs(list) do
    if v == value then
      return true
    end
  end
  return false
end

-- backoff is the delay before the retry that follows n earlier ones. draw is a
-- number in [0, 1) for the jitter.
local function backoff(retry, n, draw)
  local b = absent(retry.backoff) or {}
  local d
  if b.type == 'fixed' then
    d = absent(b.delay_ms) or 0
  else
    local initial, limit = absent(b.initial_delay_ms) or 1000, absent(b.max_delay_ms) or 60000
    local multiplier = absent(b.multiplier) or 2
    if initial == 0 or multiplier == 1 then
      d = math.min(initial, limit)
    else
      d = initial
      while n > 0 and d < limit do
        d = d * multiplier
        n = n - 1
      end
      d = d >= limit and limit or math.floor(d)
    end
  end
  if d == 0 or absent(b.jitter) ~= true then
    return d
  end
  local lowest = math.ceil(d / 2)
  return lowest + math.min(math.floor(draw * (d - lowest + 1)), d - lowest)
end

-- next_try decides by the stored policy what follows a failure of the category,
-- and counts it: {type, delay, at}, or nil for the end. The attempt must have
-- been archived before the fallback index changes.
local function next_try(r, category, at, draw)
  local policy = policy_of(r)
  local fallback = absent(policy.fallback_policy)
  if fallback then
    local categories = absent(fallback.categories)
    local fits = FALLS_BACK[category] or false
    if categories and #categories > 0 then
      fits = listed(categories, category)
    end
    local tiers = absent(fallback.tiers) or {}
    local index = N(r.f.fb, 0) + 1
    if fits and tiers[index + 1] then
      return { type = 'b', delay = 0, at = at, tier = tiers[index + 1], index = index }
    end
  end
  local retry = absent(policy.retry_policy)
  if not retry then
    return nil
  end
  local categories = absent(retry.retryable_categories)
  local fits = category ~= 'permanent' and category ~= 'cancelled'
  if categories and #categories > 0 then
    fits = listed(categories, category)
  end
  local used = N(r.f.retries, 0)
  if fits and used < (absent(retry.max_retries) or 3) then
    local delay = backoff(retry, used, draw)
    return { type = 'r', delay = delay, at = at + delay, retries = used + 1 }
  end
  return nil
end

-- count_try counts a next try, once the attempt before it is archived.
local function count_try(r, try)
  if try.type == 'r' then
    put(r, 'retries', S(try.retries))
    return
  end
  put(r, 'fb', S(try.index))
  local timeout = absent(try.tier.timeout_ms)
  if not timeout then
    local timeouts = absent(policy_of(r).timeout_policy)
    timeout = timeouts and absent(timeouts.attempt_timeout_ms)
  end
  put(r, 'to', timeout and S(timeout) or nil)
end

-- fail_attempt ends the running attempt with a failure and does what the policy
-- says then. op and source are the receipt's. It returns the try, nil at the end.
local function fail_attempt(r, o)
  local f, at = r.f, o.at
  local running = live(r)
  local try = next_try(r, o.category, at, o.draw)
  put_text(r, 'failure_reason', o.reason)
  put(r, 'failure_category', o.category)
  local rest = ''
  if try then
    rest = (try.delay == 0 and 'W' or 'D') .. ':' .. S(try.at) .. ':' .. (f.attempts or '0') .. ':' .. try.type
  end
  release(r, o.op, o.source, try and o.released_retry or o.released_end, at, rest)
  if not try then
    finish_execution(r, o.outcome, o.cause, at, running and ('f' .. (o.override and 'o' or '')) or nil)
    return nil
  end
  if running then
    archive(r, { state = 'ended_failure', at = at, reason = o.reason, category = o.category, override = o.override })
  end
  count_try(r, try)
  drop_grant(r, at)
  put(r, 'pend', try.type)
  drop(r, 'pend_reason', 'pend_by')
  put(r, 'st', letter(r) .. 't')
  if try.delay == 0 then
    make_eligible(r)
  else
    make_delayed(r, S(try.at), 'waiting_for_retry_backoff')
  end
  return try
end

-- keep_pending keeps the reason of a pending try apart from the failure reason
-- that is about to be overwritten.
local function keep_pending(r)
  local f = r.f
  if (f.pend == 'r' or f.pend == 'b') and not f.pend_reason then
    put_text(r, 'pend_reason', get(r, 'failure_reason'))
  end
end
