-- The signal primitive: deliveries and reads. (Specification 03, sections 4.3, 4.4 and
-- 4.9.)

local MAX_BUFFERED = 1000
local EVENT = { r = 'satisfied', a = 'appended', b = 'buffered', x = 'deduped' }

-- signal_event notes an event of the signals feed. g: {id, wp, name, identity}.
local function signal_event(r, g, effect, at)
  if not signals_on then
    return
  end
  add_event(r, 'signals', envelope(r, EVENT[effect] or 'no_op', at) .. '\n' .. g.id .. '\n' .. g.wp .. '\n' .. effect .. '\n' ..
    S(#g.name) .. '\n' .. g.name .. g.identity)
end

-- refuse_token notes on an existing execution that a token was refused, and answers.
local function refuse_token(r, at, answer)
  put(r, 'hf', S(math.max(at, N(r.f.hf, 0))))
  return reply(commit(r, at) or answer)
end

-- accepted checks the key of a token against the ring as it is now: nil, token_expired
-- or invalid_token.
local function not_accepted(tag, kid, at)
  local v = redis.call('HMGET', 'ff:sec:' .. tag .. ':waitpoint_hmac', 'current_kid', 'secret:' .. kid, 'expires_at:' .. kid)
  if not v[2] then
    return v[1] and 'invalid_token' or 'hmac_secret_not_initialized'
  end
  local ends = v[3] and tonumber(v[3])
  if v[1] == kid or (ends and ends > 0 and ends >= at) then
    return nil
  end
  return 'token_expired'
end

-- first_of finds the signal that a delivery repeats: {seq}, or nil; a refusal when its
-- id was sent to another waitpoint.
local function first_of(r, w, id, idem, at)
  local key = exec_key(r.tag, r.e, 'signals')
  local seq = redis.call('HGET', key, 'i:' .. id)
  local dedup = not seq and idem ~= '' and redis.call('GET', 'ff:sigdedup:' .. r.tag .. ':' .. w.id .. ':' .. idem)
  if dedup then
    local until_at, first = string.match(dedup, '^(%d+) (%d+)$')
    seq = until_at and tonumber(until_at) > at and first
  end
  if not seq then
    return nil
  end
  local v = redis.call('HMGET', key, seq, 'e' .. seq)
  local wp, head = string.match(v[1] or '', '^%d+\n([^\n]*)\n(.*)$')
  if not wp then
    return nil, refusal('corrupt_record', 'signals', 'signal ' .. seq .. ' is missing')
  end
  if wp ~= w.id then
    return nil, refusal('signal_id_conflict', id)
  end
  local g = cjson.decode(head)
  return { id = g.id, wp = wp, name = g.name, identity = g.identity, effect = string.sub(v[2] or 'o', 1, 1) }
end

-- not_signalable makes the checks of state and limits.
local function not_signalable(r, w, at)
  local where = letter(r)
  if OUTCOME[where] then
    return refusal('target_not_signalable', OUTCOME[where])
  end
  if wait.RANK[w.state] > wait.LAST_OPEN or (w.state == 'p' and w.exp <= at) then
    return refusal('waitpoint_closed', w.id)
  end
  local limit = N(r.f.sl, 10000)
  if N(r.f.sq, 0) >= limit then
    return refusal('signal_limit_exceeded', 'execution', S(limit))
  end
  if w.state == 'p' and w.n >= MAX_BUFFERED then
    return refusal('signal_limit_exceeded', 'waitpoint', S(MAX_BUFFERED))
  end
  return nil
end

-- buffer keeps what the evaluation will want to know of a signal on its waitpoint.
local function buffer(r, w, g)
  wait.set_waitpoint(r, w.id, 'b' .. S(w.n + 1), cjson.encode({
    seq = g.seq, id = g.id, at = g.at, name = g.name, category = g.category, source = g.source, identity = g.identity,
  }))
end

-- accept records a signal and does what its effect is. It returns the effect.
local function accept(r, w, g, at)
  g.seq, g.at, g.wp, g.key = N(r.f.sq, 0) + 1, at, w.id, w.key
  local x = w.state ~= 'p' and wait.load_suspension(r) or nil
  local effect = 'o'
  if w.state == 'p' then
    effect = 'b'
    buffer(r, w, g)
  elseif w.state == 'a' then
    effect = x.esc and 'n' or wait.evaluate(r, x, g)
  end
  wait.record_signal(r, g, effect)
  wait.set_waitpoint(r, w.id, 'n', S(w.n + 1), 'last', S(at))
  if w.state == 'a' or (x and x.id == w.sid) then
    wait.count_signal(r, x, g, effect)
    if effect == 'a' or effect == 'r' then
      wait.set_waitpoint(r, w.id, 'm', S(w.m + 1))
    end
  end
  signal_event(r, g, effect, at)
  if effect == 'r' then
    wait.close_suspension(r, x, 'resumed', at, x.keep ~= nil)
    wait.resume(r, at, N(x.delay, 0))
  end
  return effect
end

-- ff_deliver_signal
-- KEYS 1 routing key
-- ARGV e, waitpoint_id, its key as the token was verified with, kid, signal_id, name,
--      category, source type, source identity, head (JSON), payload, idempotency key,
--      dedup ttl in ms, what became of the token ('' verified, n refused and to be
--      noted, r refused), lane of an operator's approval ('' none)
-- Returns {a or d (duplicate), signal_id, effect, offer}. A token that was refused
-- before is answered with token_refused once it is noted.
redis.register_function('ff_deliver_signal', function(keys, a)
  local tag = enter(keys)
  local at, when = now()
  local done = wait.deliver_plainly(tag, a, at, when)
  if done then
    return done
  end
  local approval = a[15] ~= ''
  local r, refused = record_load(tag, a[1])
  if not r then
    if refused ~= '!execution_not_found' or approval then
      return reply(refused)
    end
    return refuse(a[14] ~= '' and 'token_refused' or 'invalid_token')
  end
  local w = wait.load_waitpoint(tag, a[2])
  if approval and (not w or w.x ~= r.e) then
    return refuse('waitpoint_not_found', a[2])
  elseif approval and a[15] ~= r.f.lane_id then
    return refuse('lane_mismatch')
  end
  if a[14] == 'n' then
    return refuse_token(r, at, refusal('token_refused'))
  elseif a[14] == 'r' then
    return refuse('token_refused')
  end
  if not w or w.x ~= r.e or w.key ~= a[3] then
    return refuse_token(r, at, refusal('invalid_token'))
  end
  local why = not_accepted(tag, a[4], at)
  if why == 'invalid_token' then
    return refuse_token(r, at, refusal(why))
  elseif why then
    return refuse(why, a[4])
  end
  local first
  first, refused = first_of(r, w, a[5], a[12], at)
  if refused then
    return reply(refused)
  end
  if first then
    signal_event(r, first, 'x', at)
    append(r)
    return { 'd', first.id, first.effect, '' }
  end
  refused = not_signalable(r, w, at)
  if refused then
    return reply(refused)
  end
  local effect = accept(r, w, {
    id = a[5], name = a[6], category = a[7], source = a[8], identity = a[9], head = a[10], payload = a[11],
  }, at)
  if a[12] ~= '' then
    wait.remember(r, 'ff:sigdedup:' .. tag .. ':' .. w.id .. ':' .. a[12], at, tonumber(a[13]), ' ' .. r.f.sq)
  end
  refused = commit(r, at)
  if refused then
    return reply(refused)
  end
  return { 'a', a[5], effect, r.offer or '' }
end)

-- read.o tells the signals that ended the last suspension of an attempt, in order. a:
-- attempt_id. It returns for each: number, record, effect, payload.
function wait.read.o(tag, e, a)
  local r = { tag = tag, e = e }
  local x = wait.load_suspension(r)
  local why = x and x.closed and x.why
  if not why or x.att ~= a[3] or (why ~= 'resumed' and why ~= 'already_satisfied' and why ~= 'timed_out_auto_resume') then
    return {}
  end
  return wait.told_signals(tag, e, wait.satisfiers(r, x), {})
end

-- read.g tells one signal. a: signal_id. It returns {} without it, else {number, record,
-- effect, payload}.
function wait.read.g(tag, e, a)
  local seq = redis.call('HGET', exec_key(tag, e, 'signals'), 'i:' .. a[3])
  return seq and wait.told_signals(tag, e, { tonumber(seq) }, {}) or {}
end

-- read.l lists signals. a: number to start after, limit, waitpoint_id ('' all), '1' for
-- those not consumed only. It returns {1 when more follow, then for each: number,
-- record, effect}.
function wait.read.l(tag, e, a)
  local limit = tonumber(a[4])
  local out, found = { '0' }, 0
  local last = N(redis.call('HGET', exec_key(tag, e, 'core'), 'sq') or nil, 0)
  for from = tonumber(a[3]) + 1, last, 500 do
    local fields = {}
    for seq = from, math.min(from + 499, last) do
      fields[#fields + 1] = S(seq)
      fields[#fields + 1] = 'e' .. S(seq)
    end
    local list = redis.call('HMGET', exec_key(tag, e, 'signals'), unpack(fields))
    for i = 1, #fields, 2 do
      local record, effect = list[i] or '', list[i + 1] or ''
      local fits = a[5] == '' or string.match(record, '^%d+\n([^\n]*)') == a[5]
      if fits and (a[6] == '' or not string.find(effect, ':', 1, true)) then
        found = found + 1
        if found > limit then
          out[1] = '1'
          return out
        end
        out[#out + 1] = fields[i]
        out[#out + 1] = record
        out[#out + 1] = effect
      end
    end
  end
  return out
end
