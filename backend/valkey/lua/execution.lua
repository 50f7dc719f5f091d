-- The execution primitive, but for its creation: complete, fail, cancel, delay, replay,
-- priority, progress, pause, tags, the duties that end or promote one, purge and
-- the one consistent read. (Specification 01, section 8.)

local function set_result(r, value)
  local key = exec_key(r.tag, r.e, 'result')
  if value then
    redis.call('SET', key, value)
  else
    redis.call('UNLINK', key)
  end
end

-- complete_slowly is complete for everything that is not the plain case.
local function complete_slowly(tag, a, i, at)
  local r, refused = record_load(tag, a[i])
  if not r then
    return refused
  end
  local receipt
  receipt, refused = lease_bound(r, { a[i + 1], a[i + 2], a[i + 3], a[i + 4] }, 'c', at, true)
  if receipt then
    return 'replayed'
  end
  if refused then
    return refused
  end
  release(r, 'c', a[i + 5], 'completed', at)
  drop(r, 'failure_reason', 'failure_category')
  local has = a[i + 6] == '1'
  local size = has and S(#a[i + 7] - string.find(a[i + 7], '\n', 1, true)) or nil
  finish_execution(r, 'c', 'complete', at, a[i + 5] == 'o' and 'so' or 's', size)
  local broken = commit(r, at)
  if broken then
    return broken
  end
  if has then
    set_result(r, a[i + 7])
  else
    set_result(r, nil)
  end
  return 'ok'
end

-- PLAIN_FLAGS are the flags that a plain completion knows what to do about.
local PLAIN_FLAGS = { p = true, o = true, op = true, po = true }

-- tell_endings tells of the executions that a batch has ended: their events, each
-- behind the byte 0x1E.
local function tell_endings(tag, list)
  local events = {}
  for i = 2, list.n, 2 do
    events[i / 2] = list[i]
  end
  redis.call('SPUBLISH', 'ff:done:' .. tag, '\30' .. table.concat(events, '\30'))
end

-- complete ends one execution with success. The plain case, a valid lease of the
-- holder and nothing held elsewhere, reads what matters at once and writes once;
-- what the release leaves behind of the lease is not shown any more.
local function complete(tag, a, i, at, when, batch)
  local e = a[i]
  local core = exec_key(tag, e, 'core')
  local v = redis.call('HMGET', core, 'st', 'lane_id', 'namespace', 'attempts', 'aid', 'lease_id', 'epoch', 'lx', 'worker', 'wi',
    'flags', 'public_state')
  local lane, namespace, flags = v[2], v[3], v[11]
  if v[1] ~= 'Ar' or v[6] ~= a[i + 1] or v[7] ~= a[i + 2] or v[5] ~= a[i + 3] or a[i + 5] ~= 'l' or tonumber(v[8]) <= at or
    (a[i + 4] ~= '' and tonumber(a[i + 4]) ~= v[4] - 1) or v[12] ~= 'active' or (flags and not PLAIN_FLAGS[flags]) then
    return complete_slowly(tag, a, i, at)
  end
  local flow, keep, replays = '', MS_DAY, '0'
  if flags and flags ~= 'p' then
    local o = redis.call('HMGET', core, 'flow_id', 'ret', 'replays', 'failure_reason', 'slot', 'admission_refs', 'le_l', 'pl')
    if o[4] or o[5] or o[6] or o[7] or o[8] then
      return complete_slowly(tag, a, i, at)
    end
    flow, keep, replays = o[1] or '', o[2] or MS_DAY, o[3] or '0'
  end
  redis.call('HSET', core, 'public_state', 'completed', 'st', 'cT', 'completed_at', when, 'le', 'c:l:' .. v[7] .. ':', 'ae', 's')
  local size = ''
  if a[i + 6] == '1' then
    local result = a[i + 7]
    size = S(#result - string.find(result, '\n', 1, true))
    redis.call('SET', exec_key(tag, e, 'result'), result)
  end
  collect(batch, 'ZADD', batch.due, at + keep, e)
  collect_removal(batch, 'HDEL', active_of(batch, tag, lane), e)
  local about = '\n' .. e .. '\n' .. namespace .. '\n' .. lane .. '\n' .. flow .. '\n' .. when .. '\n' ..
    (v[4] == '1' and '0' or S(v[4] - 1)) .. '\n' .. v[5] .. '\n\n'
  if leases_on then
    collect_event(batch, tag, 'leases', 'released' .. about .. v[6] .. '\n' .. v[7] .. '\n' .. v[9] .. '\n' .. v[10] ..
      '\n\n\n\n\n\n\ncompleted')
  end
  local ended = 'completed' .. about .. 'success\n' .. replays .. '\ncomplete\n' .. size .. '\n\n'
  collect_event(batch, tag, 'completions', ended)
  if batch.single then
    redis.call('SPUBLISH', 'ff:done:' .. tag, ended)
  end
  return 'ok'
end

-- ff_complete_execution (batch)
-- KEYS 1 routing key
-- ARGV 8 an item: e, lease_id, epoch, attempt_id, attempt_index, source (l, o),
--      '1' with a result, result ('<encoding>\n<payload>')
-- Returns per item 'ok', 'replayed' or '!refusal'.
redis.register_function('ff_complete_execution', function(keys, a)
  local tag = enter(keys)
  local at, when = now()
  if #a == 8 then
    return { complete(tag, a, 1, at, when, new_batch(tag, true)) }
  end
  local out, batch = {}, new_batch(tag)
  for i = 1, #a, 8 do
    out[#out + 1] = complete(tag, a, i, at, when, batch)
  end
  settle(batch)
  feed_events(tag, 'leases', batch)
  feed_events(tag, 'completions', batch)
  if batch.completions then
    tell_endings(tag, batch.completions)
  end
  return out
end)

-- ff_fail_execution
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, source (l, o), reason,
--      category, draw (number in [0, 1) for the jitter)
-- Returns {outcome r or t, delay_until, next index, type r or b, replayed, offer}.
--      Here and below an offer is '<lane>\n<namespace>\n<capabilities>' of an
--      execution that may be claimed now, else ''.
redis.register_function('ff_fail_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local receipt
  receipt, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, 'f', at, true)
  if refused then
    return reply(refused)
  end
  if receipt then
    local _, delay_until, next_index, typ = string.match(receipt.rest, '^(.):(%d+):(%d+):(.)$')
    if not delay_until then
      return { 't', '', '', '', '1' }
    end
    return { 'r', delay_until, next_index, typ, '1' }
  end
  local try = fail_attempt(r, {
    op = 'f', source = a[6], reason = a[7], category = a[8], draw = tonumber(a[9]), at = at, override = a[6] == 'o',
    released_retry = 'failed_retry_scheduled', released_end = 'failed_terminal', outcome = 'f', cause = 'fail',
  })
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  if not try then
    return { 't', '', '', '', '0' }
  end
  return { 'r', S(try.at), r.f.attempts or '0', try.type, '0', r.offer or '' }
end)

local SOURCE = { l = 'lease_holder', o = 'operator_override', f = 'flow_cascade', s = 'system_timeout' }

-- ff_cancel_execution
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, source (l, o, f, s), reason,
--      requested_by
-- Returns {outcome c or a, previous phase, public_state, replayed,
--      cancellation_reason, cancelled_by}.
redis.register_function('ff_cancel_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local source = a[6]
  if source == 'l' then
    local receipt
    receipt, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, 'x', at, true)
    if refused then
      return reply(refused)
    end
    if receipt then
      return { 'c', phase_of(receipt.rest), 'cancelled', '1', '', '' }
    end
  elseif OUTCOME[letter(r)] then
    if letter(r) ~= 'x' then
      return reply(not_active(r))
    end
    return { 'a', '', r.f.public_state, '0', get(r, 'cancellation_reason') or '', get(r, 'cancelled_by') or '' }
  end
  local previous = letter(r)
  local running = live(r)
  release(r, 'x', source, 'cancelled', at, previous)
  put_text(r, 'cancellation_reason', a[7])
  put(r, 'cancelled_by', a[8] ~= '' and a[8] or SOURCE[source])
  local cause = (source == 'f' or source == 's') and SOURCE[source] or 'cancel'
  finish_execution(r, 'x', cause, at, running and (source == 'l' and 'c' or 'co') or nil)
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { 'c', phase_of(previous), 'cancelled', '0', a[7], get(r, 'cancelled_by') }
end)

-- ff_delay_execution
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, source (l, o), delay_until,
--      delay_ms (one of the two)
-- Returns {delay_until, public_state, replayed}.
redis.register_function('ff_delay_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local receipt
  receipt, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, 'd', at, true)
  if refused then
    return reply(refused)
  end
  if receipt then
    return { receipt.rest, 'delayed', '1' }
  end
  local until_at = a[7]
  if until_at == '' then
    until_at = S(at + a[8])
  end
  pause_attempt(r, 'd', at)
  release(r, 'd', a[6], 'worker_delay', at, until_at)
  put(r, 'st', letter(r) .. 'i')
  make_delayed(r, until_at, 'waiting_for_delay')
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { until_at, 'delayed', '0' }
end)

-- ended_with describes how the current attempt of a terminal execution ended.
local function ended_with(r)
  local f = r.f
  local mark = string.sub(f.ae, 1, 1)
  local ended = { at = tonumber(f.completed_at), override = string.sub(f.ae, 2, 2) == 'o' }
  if mark == 's' then
    ended.state = 'ended_success'
  elseif mark == 't' then
    ended.state = 'ended_cancelled'
  elseif mark == 'c' then
    ended.state, ended.reason, ended.category = 'ended_cancelled', 'cancelled: ' .. (get(r, 'cancellation_reason') or ''), 'cancelled'
  else
    ended.state, ended.reason, ended.category = 'ended_failure', get(r, 'failure_reason'), get(r, 'failure_category')
  end
  return ended
end

-- ff_replay_execution
-- KEYS 1 routing key
-- ARGV e, reason, requested_by, expected replay count
-- Returns {public_state, replay_count, replayed, offer}.
redis.register_function('ff_replay_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local f = r.f
  local terminal = OUTCOME[letter(r)] ~= nil
  local count = N(f.replays, 0)
  if a[4] ~= '' and tonumber(a[4]) ~= count then
    if terminal then
      return refuse('expected_replay_count', a[4], S(count))
    end
    if count == tonumber(a[4]) + 1 then
      return { f.public_state, S(count), '1' }
    end
  end
  if not terminal then
    return refuse('execution_not_terminal', f.public_state)
  end
  local policy = policy_of(r)
  local limit = absent(policy.max_replay_count) or 10
  if count >= limit then
    return refuse('max_replays_exhausted', S(count), S(limit))
  end
  if f.ae then
    archive(r, ended_with(r))
  end
  put(r, 'replays', S(count + 1))
  drop(r, 'retries', 'reclaims', 'fb', 'completed_at', 'failure_reason', 'failure_category', 'cancellation_reason',
    'cancelled_by', 'pp', 'pm', 'pt', 'pend_reason', 'pend_by')
  local timeouts = absent(policy.timeout_policy) or {}
  local tiers = absent(policy.fallback_policy) and absent(policy.fallback_policy.tiers) or {}
  local timeout = tiers[1] and absent(tiers[1].timeout_ms) or absent(timeouts.attempt_timeout_ms)
  put(r, 'to', timeout and S(timeout) or nil)
  put(r, 'pend', 'p')
  if a[2] ~= '' and a[2] ~= 'manual' then
    put_text(r, 'pend_reason', a[2])
  end
  if a[3] ~= '' and a[3] ~= 'operator' then
    put(r, 'pend_by', a[3])
  end
  local duration = absent(timeouts.execution_deadline_ms)
  if duration and duration > 0 then
    put(r, 'deadline', S(at + duration))
  elseif f.deadline and tonumber(f.deadline) <= at then
    drop(r, 'deadline')
  end
  clear_grant(r)
  put(r, 'st', letter(r) .. 'p')
  make_eligible(r)
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  set_result(r, nil)
  return { f.public_state, f.replays, '0', r.offer or '' }
end)

-- ff_change_priority
-- KEYS 1 routing key
-- ARGV e, priority (clamped)
-- Returns {old, new, offer}.
redis.register_function('ff_change_priority', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if letter(r) ~= 'W' then
    return reply(not_eligible(r))
  end
  local old = r.f.priority or '0'
  put(r, 'priority', a[2] ~= '0' and a[2] or nil)
  r.offered = true
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { old, a[2], r.offer or '' }
end)

-- ff_update_progress
-- KEYS 1 routing key
-- ARGV e, lease_id, epoch, attempt_id, attempt_index, percent, '1' with a message,
--      message
-- Returns {}.
redis.register_function('ff_update_progress', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local _
  _, refused = lease_bound(r, { a[2], a[3], a[4], a[5] }, nil, at, false)
  if refused then
    return reply(refused)
  end
  if a[6] ~= '' then
    put(r, 'pp', a[6])
  end
  if a[7] == '1' then
    put_text(r, 'pm', a[8])
  end
  put(r, 'pt', S(at))
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return {}
end)

-- block takes an eligible execution off the order of claimers.
local function block(r, where, detail, at)
  drop_grant(r, at)
  set_state(r, where .. second(r))
  clear_block(r)
  put_text(r, 'blocking_detail', detail)
  put(r, 'blocked_since', S(at))
end

local function blockable(r, at)
  return letter(r) == 'W' and not live_grant(r.f, at)
end

-- ff_pause_execution
-- KEYS 1 routing key
-- ARGV e, detail
-- Returns {public_state}.
redis.register_function('ff_pause_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if OUTCOME[letter(r)] then
    return reply(not_active(r))
  end
  if not blockable(r, at) then
    return reply(not_eligible(r))
  end
  block(r, 'O', a[2], at)
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { r.f.public_state }
end)

-- ff_unpause_execution
-- KEYS 1 routing key
-- ARGV e
-- Returns {public_state, offer}.
redis.register_function('ff_unpause_execution', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if letter(r) ~= 'O' then
    return reply(not_eligible(r))
  end
  make_eligible(r)
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  return { r.f.public_state, r.offer or '' }
end)

-- ff_set_execution_tags
-- KEYS 1 routing key
-- ARGV e, then pairs of key and value
-- Returns {count}.
redis.register_function('ff_set_execution_tags', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local key = exec_key(tag, a[1], 'tags')
  local fields = {}
  for i = 2, #a, 2 do
    fields[#fields + 1] = a[i]
  end
  local n = redis.call('HLEN', key)
  if n + #fields > 128 then
    for _, known in ipairs(redis.call('HMGET', key, unpack(fields))) do
      if known then
        n = n - 1
      end
    end
    if n + #fields > 128 then
      return refuse('too_many_tags', S(n + #fields))
    end
  end
  set_flag(r, 't')
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  redis.call('HSET', key, unpack(a, 2))
  return { S(#fields) }
end)

-- ff_remove_execution_tag
-- KEYS 1 routing key
-- ARGV e, key
-- Returns {removed}.
redis.register_function('ff_remove_execution_tag', function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  if redis.call('HEXISTS', exec_key(tag, a[1], 'tags'), a[2]) == 0 then
    return { '0' }
  end
  local broken = commit(r, at)
  if broken then
    return reply(broken)
  end
  redis.call('HDEL', exec_key(tag, a[1], 'tags'), a[2])
  return { '1' }
end)

local function promote_delayed(r, at)
  if letter(r) ~= 'D' then
    return 'cleaned'
  end
  if tonumber(r.f.delay_until) > at then
    return 'not_yet_due'
  end
  make_eligible(r)
  return 'promoted'
end

local function expire_deadline(r, at)
  local f = r.f
  if OUTCOME[letter(r)] or not f.deadline then
    return 'cleaned'
  end
  if tonumber(f.deadline) > at then
    return 'not_yet_due'
  end
  local running = live(r)
  keep_pending(r)
  put(r, 'failure_reason', 'execution_deadline')
  put(r, 'failure_category', 'deadline')
  release(r, 'e', 's', 'execution_deadline', at)
  finish_execution(r, 'e', 'execution_deadline', at, running and 'fo' or nil)
  return 'expired'
end

local function expire_attempt(r, at, draw)
  local f = r.f
  if not OWNERSHIP[letter(r)] or not f.attempt_due then
    return 'cleaned'
  end
  if tonumber(f.attempt_due) > at then
    return 'not_yet_due'
  end
  local try = fail_attempt(r, {
    op = 'e', source = 's', reason = 'attempt_timeout', category = 'timeout', draw = draw, at = at, override = true,
    released_retry = 'attempt_timeout', released_end = 'attempt_timeout', outcome = 'e', cause = 'attempt_timeout',
  })
  return try and 'retry_scheduled' or 'expired'
end

-- duty runs one duty on one named execution and answers with its outcome.
local function duty(keys, a, run)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  local outcome = run(r, at)
  if outcome ~= 'cleaned' and outcome ~= 'not_yet_due' then
    local broken = commit(r, at)
    if broken then
      return reply(broken)
    end
  end
  return { outcome, r.offer or '' }
end

-- ff_promote_delayed
-- KEYS 1 routing key
-- ARGV e
-- Returns {promoted, not_yet_due or cleaned, offer}.
redis.register_function('ff_promote_delayed', function(keys, a)
  return duty(keys, a, promote_delayed)
end)

-- ff_expire_execution
-- KEYS 1 routing key
-- ARGV e, attempt_timeout or execution_deadline, draw
-- Returns {expired, retry_scheduled, not_yet_due or cleaned, offer}.
redis.register_function('ff_expire_execution', function(keys, a)
  return duty(keys, a, function(r, at)
    if a[2] == 'execution_deadline' then
      return expire_deadline(r, at)
    end
    return expire_attempt(r, at, tonumber(a[3]))
  end)
end)

-- purge removes an execution whose retention is over. Core goes last, the entry
-- of due after it, so that a purge that broke off is found again.
local function purge(r, at)
  local f, tag, e = r.f, r.tag, r.e
  if not OUTCOME[letter(r)] or f.completed_at + retention(f) > at then
    return 'not_yet_due'
  end
  redis.call('UNLINK', exec_key(tag, e, 'def'), exec_key(tag, e, 'result'), exec_key(tag, e, 'tags'), exec_key(tag, e, 'text'),
    exec_key(tag, e, 'attempts'))
  if flag(r, 'w') then
    wait.purge(r)
  end
  redis.call('DEL', exec_key(tag, e, 'core'))
  redis.call('ZREM', 'ff:idx:' .. tag .. ':due', e)
  return 'purged'
end

-- ff_purge_execution
-- KEYS 1 routing key
-- ARGV e
-- Returns {purged or not_yet_due}.
redis.register_function{ function_name = 'ff_purge_execution', flags = { 'allow-oom' }, callback = function(keys, a)
  local tag = enter(keys)
  local at = now()
  local r, refused = record_load(tag, a[1])
  if not r then
    return reply(refused)
  end
  return { purge(r, at) }
end }

-- ff_describe_execution (read only)
-- KEYS 1 routing key
-- ARGV e, parts: t tags, h header of def, d whole def, a ended attempts, r result,
--      l label of the bucket
-- Returns {} without an execution, else {now, core, text, tags, def, attempts,
--      result or nil, descriptor of the bucket, u value, m value}.
redis.register_function{ function_name = 'ff_describe_execution', flags = { 'no-writes' }, callback = function(keys, a)
  local tag, e, parts = enter(keys), a[1], a[2]
  local core = redis.call('HGETALL', exec_key(tag, e, 'core'))
  if #core == 0 then
    return {}
  end
  local f = {}
  for i = 1, #core, 2 do
    f[core[i]] = core[i + 1]
  end
  local flags = f.flags or ''
  local function has(list, part)
    return string.find(list, part, 1, true) ~= nil
  end
  local text, tags, attempts, def, result = {}, {}, {}, '', false
  if has(flags, 'x') then
    text = redis.call('HGETALL', exec_key(tag, e, 'text'))
  end
  if has(flags, 't') and has(parts, 't') then
    tags = redis.call('HGETALL', exec_key(tag, e, 'tags'))
  end
  if has(flags, 'a') and has(parts, 'a') then
    attempts = redis.call('HGETALL', exec_key(tag, e, 'attempts'))
  end
  local key = exec_key(tag, e, 'def')
  if has(parts, 'd') then
    def = redis.call('GET', key) or ''
  elseif has(parts, 'h') then
    def = redis.call('GETRANGE', key, 0, 511)
    local kind, creator, encoding, idem, policy, from = string.match(def, '^(%d+) (%d+) (%d+) (%d+) (%d+)\n()', 65)
    if kind then
      local last = from - 1 + kind + creator + encoding + idem + policy
      if last > 512 then
        def = redis.call('GETRANGE', key, 0, last - 1)
      else
        def = string.sub(def, 1, last)
      end
    end
  end
  if has(parts, 'r') then
    result = redis.call('GET', exec_key(tag, e, 'result'))
  end
  local label = { false, false, false }
  if has(parts, 'l') and f.lane_id and f.bk then
    label = redis.call('HMGET', lane_key(tag, f.lane_id, 'buckets'), f.bk, 'u:' .. f.bk, 'm:' .. f.bk)
  end
  return { S(now()), core, text, tags, def, attempts, result or '', label[1] or '', label[2] or '', label[3] or '', result and '1' or '0' }
end }
