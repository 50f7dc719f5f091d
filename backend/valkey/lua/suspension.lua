-- The suspension primitive: suspend, resume, timeout, and the end of waits with their
-- execution. (Specification 03, sections 3 and 4.)

local TOLERANCE = 600000
local REPLAY_GRACE, MAX_REPLAY = 60000, 604800000
local BINDINGS = 20 -- the first argument of ff_suspend_execution about a binding

-- supersede closes the satisfied waitpoints of the suspension before. It returns how
-- many waitpoints are open then, and how many of them are pending.
local function supersede(r, at)
  local open, pending = 0, 0
  for _, w in ipairs(wait.open_waitpoints(r)) do
    if w.state == 's' then
      wait.finish_waitpoint(r, w, 'c', 'superseded', at)
    else
      open = open + 1
      pending = pending + (w.state == 'p' and 1 or 0)
    end
  end
  return open, pending
end

-- new_suspension notes the record that takes the place of the former one. x: {id,
-- reason, by, cond as it is stored}.
local function new_suspension(r, x, at)
  local f = r.f
  wait.noted(r).replaced = flag(r, 'w')
  wait.set_suspension(r, 'id', x.id, 'lease', f.lease_id, 'epoch', f.epoch, 'att', f.aid, 'idx', S(N(f.attempts, 0) - 1),
    'reason', x.reason, 'by', x.by, 'at', S(at), 'cond', x.cond)
  local left = time_left(r, at)
  if left ~= '' then
    wait.set_suspension(r, 'left', left)
  end
end

-- hold makes the suspension hold: lease given up, attempt paused. x: {id, to, reason,
-- blocking, primary}.
local function hold(r, x, at)
  pause_attempt(r, 's', at)
  give_up(r, 'suspend', at)
  clear_block(r)
  set_state(r, 'Si')
  put(r, 'sid', x.id)
  put(r, 'wid', x.primary)
  put(r, 'sto', x.to and S(x.to) or nil)
  put(r, 'blocking_reason', x.blocking ~= 'waiting_for_signal' and x.blocking or nil)
  put(r, 'wr', x.reason ~= x.blocking and x.reason or nil)
  r.paused = true
end

-- timeout_of is the instant and behaviour of the timeout to be; nil for none; nil and a
-- refusal for one too far in the past.
function wait.timeout_of(r, a, at)
  local ms, when, behavior = given(a[11]), given(a[12]), given(a[13])
  local policy
  if not behavior or not (ms or when) then
    policy = absent(policy_of(r).suspension_policy)
  end
  behavior = behavior or (policy and absent(policy.timeout_behavior)) or 'fail'
  if when then
    if tonumber(when) < at - TOLERANCE then
      return nil, refusal('timeout_at_in_past', when)
    end
    return tonumber(when), behavior
  end
  ms = ms or (policy and absent(policy.default_timeout_ms))
  if ms and tonumber(ms) > 0 then
    return wait.instant(at, tonumber(ms)), behavior
  end
  return nil
end

-- bind_pending checks a pending waitpoint that is to be bound.
local function bind_pending(r, id, at)
  local w = wait.load_waitpoint(r.tag, id)
  if not w then
    return nil, refusal('waitpoint_not_found', id)
  end
  if w.state == 'e' or (w.state == 'p' and w.exp <= at) then
    return nil, refusal('pending_waitpoint_expired', id, S(w.exp))
  end
  if w.state ~= 'p' then
    return nil, refusal('waitpoint_not_pending', id, wait.STATE[w.state])
  end
  if w.x ~= r.e or w.attempt ~= r.f.aid then
    return nil, refusal('invalid_waitpoint_for_execution', id)
  end
  if not w.token then
    return nil, refusal('waitpoint_not_token_bound', id)
  end
  return w
end

-- keys_agree checks that the keys of the waitpoints are distinct and exactly those the
-- condition refers to. It returns a refusal or nil.
local function keys_agree(x, bound)
  local unmet, n = {}, 0
  for _, w in ipairs(bound) do
    if unmet[w.key] then
      return refusal('bad_binding', 'duplicate_binding')
    end
    unmet[w.key] = true
    n = n + 1
  end
  local kind = x.tree.kind
  if kind == 'operator_only' or kind == 'timeout_only' then
    return n ~= 1 and refusal('bad_binding', 'waitpoint_key_mismatch', kind, S(n)) or nil
  end
  for _, leaf in ipairs(x.leaves) do
    for _, key in ipairs(leaf.waitpoints or { leaf.waitpoint_key }) do
      if unmet[key] == nil then
        return refusal('bad_binding', 'waitpoint_key_mismatch')
      end
      n = n - (unmet[key] and 1 or 0)
      unmet[key] = false
    end
  end
  return n ~= 0 and refusal('bad_binding', 'waitpoint_key_mismatch') or nil
end

-- bind makes the waitpoints of the suspension to be out of the bindings: pending ones
-- as stored, fresh ones with new tokens.
local function bind(r, a, x, at)
  local bound, minted = {}, nil
  for i = BINDINGS, #a, 3 do
    local w, refused = nil, nil
    if a[i + 1] == '' then
      w, refused = bind_pending(r, a[i], at)
    elseif redis.call('EXISTS', wait.key(r.tag, a[i])) == 1 then
      refused = refusal('waitpoint_already_exists', a[i])
    else
      w = { id = a[i], key = a[i + 1], digest = a[i + 2], token = a[19] .. ':' .. a[i + 2], n = 0, m = 0 }
      minted = minted or w.digest
    end
    if refused then
      return nil, refused
    end
    bound[#bound + 1] = w
  end
  local refused = keys_agree(x, bound)
  if not refused and minted then
    refused = wait.not_minted(r.tag, a[19], minted)
  end
  return not refused and bound or nil, refused
end

-- replay_buffered feeds the signals buffered on the bound waitpoints to the condition,
-- in the order of their acceptance, and tells whether it is satisfied.
local function replay_buffered(r, x, bound)
  local all = {}
  for _, w in ipairs(bound) do
    for _, g in ipairs(wait.buffered(r, w.id, w.n)) do
      g.wp, g.key, g.of = w.id, w.key, w
      all[#all + 1] = g
    end
    wait.unbuffer(r, w.id, w.n)
  end
  table.sort(all, function(g, h)
    return g.seq < h.seq
  end)
  local met = false
  for _, g in ipairs(all) do
    local effect = met and 'o' or wait.evaluate(r, x, g)
    met = met or effect == 'r'
    wait.count_signal(r, x, g, effect)
    wait.note_signal(r, 'e' .. S(g.seq), effect)
    if effect == 'a' or effect == 'r' then
      g.of.m = g.of.m + 1
      wait.set_waitpoint(r, g.of.id, 'm', S(g.of.m))
    end
  end
  return met
end

-- attach brings the bound waitpoints where the suspension has them: active, or closed
-- where it was satisfied before it began.
local function attach(r, x, bound, kid, met, at)
  local wps = {}
  for i, w in ipairs(bound) do
    wps[i] = w.id .. ' ' .. w.key
    if w.digest then
      wait.new_waitpoint(r, w.id, w.key, kid, w.digest, at)
    end
    wait.set_waitpoint(r, w.id, 'sid', x.id)
    if met then
      wait.set_waitpoint(r, w.id, 'sat', S(at))
      wait.finish_waitpoint(r, { id = w.id, state = 'a' }, 'c', 'already_satisfied', at)
    else
      wait.move_waitpoint(r, w.id, 'a')
      wait.set_waitpoint(r, w.id, 'act', S(at), 'exp', x.to and S(x.to) or '')
    end
  end
  wait.set_suspension(r, 'wps', table.concat(wps, '\n'))
end

-- outcome_of is what a suspend came to, as lines that are kept for a repeat: s or a,
-- suspension_id, number of waitpoints, id, key and token of each, and the numbers of
-- the satisfiers.
local function outcome_of(r, x, bound, met)
  local lines = { met and 'a' or 's', x.id, S(#bound) }
  for _, w in ipairs(bound) do
    lines[#lines + 1] = w.id
    lines[#lines + 1] = w.key
    lines[#lines + 1] = met and '' or w.token
  end
  lines[#lines + 1] = met and table.concat(wait.satisfiers(r, x), ',') or ''
  return lines
end

local function suspend_answer(r, lines, replayed)
  local out = { replayed }
  for i = 1, #lines - 1 do
    out[#out + 1] = lines[i]
  end
  local list = {}
  for seq in string.gmatch(lines[#lines], '%d+') do
    list[#list + 1] = tonumber(seq)
  end
  return wait.told_signals(r.tag, r.e, list, out)
end

local function replay_key(r, lease, idem)
  return 'ff:dedup:suspend:' .. r.tag .. ':' .. r.e .. ':' .. lease .. ':' .. idem
end

-- suspended_before finds the outcome of an earlier suspend with the lease and the
-- idempotency key; nil without one.
local function suspended_before(r, lease, idem, at)
  local text = idem ~= '' and redis.call('GET', replay_key(r, lease, idem))
  if not text then
    return nil
  end
  local until_at, rest = string.match(text, '^(%d+)\n(.*)$')
  if not until_at or tonumber(until_at) <= at then
    return nil
  end
  local lines = {}
  for line in string.gmatch(rest .. '\n', '([^\n]*)\n') do
    lines[#lines + 1] = line
  end
  return lines
end

-- keep_outcome keeps it for a repeat.
local function keep_outcome(r, lease, idem, lines, timeout, at)
  if idem == '' then
    return
  end
  local ttl = MAX_REPLAY
  if timeout then
    ttl = math.min(math.max(timeout - at + REPLAY_GRACE, REPLAY_GRACE), MAX_REPLAY)
  end
  wait.remember(r, replay_key(r, lease, idem), at, ttl, '\n' .. table.concat(lines, '\n'))
end

-- already_suspended refuses the repeat of the suspend that holds now.
local function already_suspended(r, a)
  local x = letter(r) == 'S' and wait.load_suspension(r)
  if x and not x.closed and x.lease == a[2] and x.epoch == a[3] and x.att == a[4] then
    return refusal('already_suspended', x.id)
  end
  return nil
end

-- make_suspension does what a suspend does once it is known to be possible. It returns
-- its outcome, or nil and a refusal.
local function make_suspension(r, a, x, bound, at)
  local open, pending = supersede(r, at)
  if not bound[2] then
    x.cond = wait.short(x.cond, bound[1].key)
  end
  new_suspension(r, x, at)
  wait.begin(r)
  local met = replay_buffered(r, x, bound)
  local fresh = 0
  for _, w in ipairs(bound) do
    fresh = fresh + (w.digest and 1 or 0)
  end
  if not met and open + fresh > wait.MAX_OPEN then
    return nil, wait.open_limit()
  end
  if pending == #bound - fresh then
    wait.put_pending_end(r, nil)
  end
  if met then
    wait.set_suspension(r, 'sat', S(at), 'closed', S(at), 'why', 'already_satisfied')
    wait.consume(r, x, at)
  else
    if x.to then
      wait.set_suspension(r, 'to', S(x.to), 'tb', x.behavior)
    end
    x.primary = bound[1].id
    hold(r, x, at)
  end
  attach(r, x, bound, a[19], met, at)
  for i, field in ipairs({ 'delay', 'keep', 'nc', 'meta' }) do
    if a[13 + i] ~= '' then
      wait.set_suspension(r, field, a[13 + i])
    end
  end
  local lines = outcome_of(r, x, bound, met)
  keep_outcome(r, a[2], a[18], lines, not met and x.to or nil, at)
  return lines, commit(r, at)
end

-- suspend_for_budget suspends an execution whose budget is spent, unless the fence does
-- not hold any more. Only the epoch in it: the lease that was seen.
local function suspend_for_budget(r, a, at)
  local f = r.f
  local fits = letter(r) == 'A' and not overdue(r, at) and a[3] == f.epoch
  if fits and (a[2] ~= '' or a[4] ~= '') then
    fits = a[2] == f.lease_id and a[4] == f.aid and (a[5] == '' or tonumber(a[5]) == N(f.attempts, 0) - 1)
  end
  if not fits then
    return { '0', '' }
  end
  local x = { id = a[6], cond = a[7], reason = a[8], blocking = a[9], by = a[10] }
  supersede(r, at)
  new_suspension(r, x, at)
  wait.begin(r)
  hold(r, x, at)
  put(r, 'blocking_ref', a[17])
  put_text(r, 'blocking_detail', given(a[18]))
  local refused = commit(r, at)
  if refused then
    return reply(refused)
  end
  return { '0', 's' }
end

-- ff_suspend_execution
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, suspension_id, condition (JSON),
--      reason code, blocking reason, requested_by, timeout in ms, timeout_at,
--      behaviour of the timeout, resume delay, '1' to keep the waitpoints open on
--      resume, '1' not to consume, continuation pointer, idempotency key, kid, then
--      3 a waitpoint: id, key ('' of a pending one), digest of its token.
--      For a spent budget, which the reason code tells: budget_id and blocking detail
--      in place of pointer and idempotency key, and no waitpoints
-- Returns {1 when replayed, s (suspended) or a (already satisfied), suspension_id,
--      number of waitpoints, id, key and token of each, then for each satisfier:
--      number, record, effect, payload}. For a budget {0, s when suspended, else ''}.
redis.register_function('ff_suspend_execution', function(keys, a)
  local tag = enter(keys)
  local at, when = now()
  local done = wait.suspend_plainly(tag, a, at, when)
  if done then
    return done
  end
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if a[8] == 'paused_by_budget' then
    return suspend_for_budget(r, a, at)
  end
  local lines = suspended_before(r, a[2], a[18], at)
  if lines then
    return suspend_answer(r, lines, '1')
  end
  refused = already_suspended(r, a)
  if refused then
    return reply(refused)
  end
  local _
  _, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, nil, at, true)
  if refused then
    return reply(refused)
  end
  local x = { id = a[6], cond = a[7], reason = a[8], blocking = a[9], by = a[10], nc = given(a[16]), unsaved = true, fresh = {} }
  local ends, behavior = wait.timeout_of(r, a, at)
  if not ends and behavior then
    return reply(behavior)
  end
  x.to, x.behavior = ends, behavior
  wait.open_condition(x)
  local bound
  bound, refused = bind(r, a, x, at)
  if refused then
    return reply(refused)
  end
  lines, refused = make_suspension(r, a, x, bound, at)
  if refused then
    return reply(refused)
  end
  return suspend_answer(r, lines, '0')
end)

-- timeout_signal_id is the id of the signal that a suspension's timeout records: the
-- same in every store.
local function timeout_signal_id(suspension)
  local h = redis.sha1hex('suspension_timeout:' .. suspension)
  return string.sub(h, 1, 8) .. '-' .. string.sub(h, 9, 12) .. '-5' .. string.sub(h, 14, 16) .. '-a' .. string.sub(h, 18, 20) ..
    '-' .. string.sub(h, 21, 32)
end

-- resume_by_timeout records the signal of the timeout on the primary waitpoint and
-- resumes at once.
local function resume_by_timeout(r, x, at)
  local w = r.f.wid and wait.load_waitpoint(r.tag, r.f.wid)
  if w then
    local g = {
      id = timeout_signal_id(x.id), seq = N(r.f.sq, 0) + 1, at = at, wp = w.id, payload = '', name = 'timeout', category = 'timeout',
      source = 'engine', identity = 'suspension_timeout',
    }
    g.head = cjson.encode({ id = g.id, key = w.key, name = g.name, category = g.category, source = g.source, identity = g.identity })
    wait.record_signal(r, g, 'r')
    wait.set_waitpoint(r, w.id, 'n', S(w.n + 1), 'm', S(w.m + 1), 'last', S(at))
    wait.count_signal(r, x, g, 'r')
  end
  wait.close_suspension(r, x, 'timed_out_auto_resume', at)
  wait.resume(r, at, 0)
end

-- escalate leaves the execution suspended, for an operator to look at.
local function escalate(r, x, at)
  wait.set_suspension(r, 'esc', S(at), 'to', '', 'tb', '', 'reason', 'waiting_for_operator_review')
  for line in string.gmatch(x.wps or '', '[^\n]+') do
    wait.set_waitpoint(r, string.sub(line, 1, 36), 'exp', '')
  end
  put(r, 'blocking_reason', 'paused_by_operator')
  put(r, 'wr', 'waiting_for_operator_review')
  put_text(r, 'blocking_detail', 'suspended: timeout passed at ' .. x.to .. ', awaiting operator')
  drop(r, 'sto')
end

local TIMED_OUT = {
  fail = { outcome = 'f', mark = 'fo', why = 'timed_out_fail' },
  cancel = { outcome = 'x', mark = 'to', why = 'timed_out_cancel' },
  expire = { outcome = 'e', mark = 'fo', why = 'timed_out_expire' },
}

-- expire_suspension applies the timeout of the open suspension, if it has come. It
-- returns the behaviour, or nil and why not.
wait.expire_suspension = function(r, at)
  if letter(r) ~= 'S' then
    return nil, 'not_suspended'
  end
  local x = wait.load_suspension(r)
  if not x or x.closed then
    drop(r, 'sto')
    return nil, 'no_active_suspension'
  end
  if not x.to or tonumber(x.to) > at then
    return nil, 'not_yet_due'
  end
  if x.tb == 'auto_resume_with_timeout_signal' then
    resume_by_timeout(r, x, at)
    return x.tb
  elseif x.tb == 'escalate' then
    escalate(r, x, at)
    return x.tb
  end
  local ends = TIMED_OUT[x.tb] or TIMED_OUT.fail
  local reason = 'suspension_timeout:' .. (TIMED_OUT[x.tb] and x.tb or 'fail')
  if ends.outcome == 'x' then
    put(r, 'cancellation_reason', reason)
    put(r, 'cancelled_by', 'system_timeout')
  else
    put(r, 'failure_reason', reason)
    put(r, 'failure_category', 'timeout')
  end
  finish_execution(r, ends.outcome, 'suspension_timeout', at, ends.mark, nil, ends.why)
  return x.tb
end

-- resume_by_hand ends the suspension whatever its condition.
local function resume_by_hand(r, reason, delay, at)
  local x = letter(r) == 'S' and wait.load_suspension(r)
  if not x or x.closed then
    return refuse('execution_not_suspended', r.f.public_state, phase_of(letter(r)))
  end
  wait.close_suspension(r, x, reason, at)
  wait.resume(r, at, N(delay, N(x.delay, 0)))
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { r.f.public_state, r.offer or '' }
end

-- apply_timeout applies the timeout of the suspension.
local function apply_timeout(r, at)
  local behavior, why = wait.expire_suspension(r, at)
  local broken = why ~= 'not_suspended' and why ~= 'not_yet_due' and commit(r, at)
  if broken then
    return reply(broken)
  end
  if not behavior then
    return { '', '', why }
  end
  return { r.f.public_state, r.offer or '', behavior }
end

-- ff_resume_execution
-- KEYS 1 routing key
-- ARGV e, what ends the suspension (operator_resume, budget_recovered, or timeout for
--      its timeout, whatever that does), delay in ms ('' that of the resume policy)
-- Returns {public_state, offer}; of a timeout {public_state, offer, behaviour}, or
--      {'', '', reason} where it is not due.
redis.register_function('ff_resume_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if a[2] == 'timeout' then
    return apply_timeout(r, at)
  end
  return resume_by_hand(r, a[2], a[3], at)
end)

wait.finish = function(r, why, at)
  local x = letter(r) == 'S' and wait.load_suspension(r)
  if x and not x.closed then
    wait.close_suspension(r, x, why, at)
  end
  for _, w in ipairs(wait.open_waitpoints(r)) do
    if w.state ~= 'a' then -- the active ones are those of the suspension
      wait.finish_waitpoint(r, w, 'c', 'execution_terminal', at)
    end
  end
  drop(r, 'wid', 'sto', 'wr', 'wpx')
end

-- ff_read_waits (read only)
-- KEYS 1 routing key
-- ARGV e, what (w waitpoints, o observed signals, g one signal, l signals; k keys, of no
--      execution), then as wait.read of waitpoint.lua, signal.lua and secret.lua has it
-- Returns what that returns.
redis.register_function{ function_name = 'ff_read_waits', flags = { 'no-writes' }, callback = function(keys, a)
  local tag, e = enter(keys), a[1]
  if a[2] ~= 'k' and redis.call('HEXISTS', exec_key(tag, e, 'core'), 'st') == 0 then
    return refuse('execution_not_found')
  end
  return wait.read[a[2]](tag, e, a)
end }
