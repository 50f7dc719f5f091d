-- The condition of a suspension: what signals do to it, and what follows once it is
-- satisfied. (Specification 03, section 3.)
--
-- Effects are letters: r resume_condition_satisfied, a appended_to_waitpoint,
-- d appended_to_waitpoint_duplicate, m signal_ignored_matcher_failed,
-- n signal_ignored_not_in_condition, b buffered_for_pending_waitpoint, o no_op,
-- v no_op_waitpoint_never_activated; in events also x, duplicate.

-- The fields of the suspension that its transitions read.
local SUSPENSION = {
  'id', 'lease', 'epoch', 'att', 'wps', 'to', 'tb', 'cond', 'delay', 'keep', 'nc', 'n', 'm', 'esc', 'closed', 'why', 'cnt', 'sats',
}

-- load_suspension reads the current or last suspension; nil without one.
function wait.load_suspension(r)
  local v = redis.call('HMGET', exec_key(r.tag, r.e, 'susp'), unpack(SUSPENSION))
  if not v[1] then
    return nil
  end
  local x = { fresh = {} }
  for i, field in ipairs(SUSPENSION) do
    x[field] = v[i] and given(v[i]) or nil
  end
  return x
end

-- set_suspension notes fields of the suspension, field and value in turn; the empty
-- string stands for none.
function wait.set_suspension(r, ...)
  return wait.append(wait.noted(r).susp, ...)
end

-- The one signal by name that most waits are for is stored as '=' and the name: the key
-- is that of the only waitpoint. So short, the suspension stays compact in memory.
local SINGLE, BY_NAME = '{"v":1,"kind":"single","waitpoint_key":"', '","matcher":{"kind":"by_name","name":"'

-- quotable tells whether a text stands in JSON as it is, between quotes.
local function quotable(text)
  return not string.find(text, '["\\]')
end

-- is_single tells whether a condition in JSON is one node that listens to the key.
function wait.is_single(cond, key)
  return quotable(key) and string.find(cond, SINGLE .. key .. '","matcher":{', 1, true) == 1
end

-- short is how a condition in JSON is stored. key: that of the only waitpoint.
function wait.short(cond, key)
  local from = SINGLE .. key .. BY_NAME
  if not quotable(key) or string.find(cond, from, 1, true) ~= 1 or string.sub(cond, -3) ~= '"}}' then
    return cond
  end
  local name = string.sub(cond, #from + 1, -4)
  return quotable(name) and '=' .. name or cond
end

-- long is a stored condition in JSON again.
function wait.long(cond, wps)
  if string.byte(cond) ~= 61 then
    return cond
  end
  return SINGLE .. (string.match(wps or '', ' ([^\n]*)') or '') .. BY_NAME .. string.sub(cond, 2) .. '"}}'
end

-- leaves_of lists the single and count nodes in depth-first order and numbers them.
local function leaves_of(node, list)
  if node.kind == 'single' or node.kind == 'count' then
    list[#list + 1] = node
    node.leaf = #list
  end
  for _, member in ipairs(node.members or {}) do
    leaves_of(member, list)
  end
  return list
end

-- open_condition makes the condition ready for signals: its leaves, and how many
-- satisfiers each has.
function wait.open_condition(x)
  if x.tree then
    return
  end
  x.tree = cjson.decode(wait.long(x.cond, x.wps))
  x.leaves = leaves_of(x.tree, {})
  x.counts = {}
  for n in string.gmatch(x.cnt or '', '%d+') do
    x.counts[#x.counts + 1] = tonumber(n)
  end
  for i = 1, #x.leaves do
    x.counts[i] = x.counts[i] or 0
  end
end

local function is_satisfied(node, counts)
  if node.kind == 'single' then
    return counts[node.leaf] >= 1
  elseif node.kind == 'count' then
    return counts[node.leaf] >= node.n
  elseif node.kind ~= 'all_of' then
    return false
  end
  for _, member in ipairs(node.members) do
    if not is_satisfied(member, counts) then
      return false
    end
  end
  return true
end

-- accepts tells whether a matcher accepts a signal.
function wait.accepts(matcher, g)
  local m = absent(matcher)
  if not m then
    return true
  end
  if m.source_type and m.source_type ~= g.source or m.signal_category and m.signal_category ~= g.category then
    return false
  end
  if m.kind == 'by_name' then
    return m.name == g.name
  elseif m.kind == 'by_names' then
    return listed(m.names, g.name)
  end
  return m.kind == 'wildcard'
end

-- satisfier_of is what a signal adds to a leaf that accepts it.
local function satisfier_of(leaf, g)
  if leaf.kind == 'single' then
    return '1'
  elseif leaf.count_kind == 'distinct_signals' then
    return g.id
  elseif leaf.count_kind == 'distinct_sources' then
    return g.source .. '/' .. g.identity
  end
  return g.wp
end

-- has tells whether a leaf has a satisfier, in the store or since.
local function has_satisfier(r, x, leaf, field)
  if x.marks[field] then
    return true
  end
  if x.counts[leaf.leaf] == 0 or x.unsaved then
    return false
  end
  return redis.call('HEXISTS', exec_key(r.tag, r.e, 'susp'), field) == 1
end

-- evaluate feeds a signal to the condition: the one rule of specification 03, section
-- 3.3. It returns the signal's effect and notes what the signal added.
function wait.evaluate(r, x, g)
  wait.open_condition(x)
  x.marks = x.marks or {}
  local effect, added = 'n', false
  for _, leaf in ipairs(x.leaves) do
    local listens = leaf.waitpoint_key == g.key or leaf.waitpoints and listed(leaf.waitpoints, g.key)
    if listens and not wait.accepts(leaf.matcher, g) then
      effect = effect == 'n' and 'm' or effect
    elseif listens then
      effect = 'd'
      local field = 's' .. S(leaf.leaf) .. ':' .. satisfier_of(leaf, g)
      if not has_satisfier(r, x, leaf, field) then
        added = true
        x.marks[field] = true
        x.counts[leaf.leaf] = x.counts[leaf.leaf] + 1
        wait.set_suspension(r, field, S(x.counts[leaf.leaf]))
      end
    end
  end
  if not added then
    return effect
  end
  wait.set_suspension(r, 'cnt', table.concat(x.counts, ','))
  return is_satisfied(x.tree, x.counts) and 'r' or 'a'
end

-- count_signal counts a signal in the suspension. One that matched is a satisfier.
function wait.count_signal(r, x, g, effect)
  x.n = N(x.n, 0) + 1
  wait.set_suspension(r, 'n', S(x.n), 'last', S(g.at))
  if effect ~= 'a' and effect ~= 'r' then
    return
  end
  x.m, x.sats = N(x.m, 0) + 1, N(x.sats, 0) + 1
  x.fresh[#x.fresh + 1] = g.seq
  wait.set_suspension(r, 'm', S(x.m), 'sats', S(x.sats), 'g' .. S(x.sats), S(g.seq) .. ':' .. g.id)
  if effect == 'r' then
    wait.set_suspension(r, 'closer', g.id)
  end
end

-- satisfiers lists the numbers of the satisfiers, those in the store first.
function wait.satisfiers(r, x)
  local list, fields = {}, {}
  for i = 1, N(x.sats, 0) - #x.fresh do
    fields[i] = 'g' .. S(i)
  end
  for i = 1, #fields, 1000 do
    local part = redis.call('HMGET', exec_key(r.tag, r.e, 'susp'), unpack(fields, i, math.min(i + 999, #fields)))
    for _, v in ipairs(part) do
      list[#list + 1] = v and tonumber(string.match(v, '^%d+')) or nil
    end
  end
  for _, seq in ipairs(x.fresh) do
    list[#list + 1] = seq
  end
  return list
end

-- consume marks the satisfiers as used up, where the policy says so. The last one is
-- the closer, all others were appended.
function wait.consume(r, x, at)
  if x.nc then
    return
  end
  local list = wait.satisfiers(r, x)
  local mark = ':' .. S(at) .. ':' .. x.id
  for i, seq in ipairs(list) do
    wait.note_signal(r, 'e' .. S(seq), (i == #list and 'r' or 'a') .. mark)
  end
end

-- record_signal keeps a signal: what it says, where it is found by its id, what it did.
-- g: {id, seq, at, wp, head, payload}.
function wait.record_signal(r, g, effect)
  local seq = S(g.seq)
  put(r, 'sq', seq)
  wait.note_signal(r, seq, S(g.at) .. '\n' .. g.wp .. '\n' .. g.head)
  wait.note_signal(r, 'i:' .. g.id, seq)
  wait.note_signal(r, 'e' .. seq, effect)
  if g.payload ~= '' then
    wait.note_signal(r, 'p' .. seq, g.payload)
  end
end

-- close_suspension ends the open suspension and its waitpoints. keep leaves the
-- waitpoints open for audit.
function wait.close_suspension(r, x, why, at, keep)
  local when = S(at)
  local by_signals = why == 'resumed' or why == 'timed_out_auto_resume'
  wait.set_suspension(r, 'closed', when, 'why', why)
  if by_signals then
    wait.set_suspension(r, 'sat', when)
    wait.consume(r, x, at)
  end
  for line in string.gmatch(x.wps or '', '[^\n]+') do
    local id = string.sub(line, 1, 36)
    if by_signals then
      wait.set_waitpoint(r, id, 'sat', when)
    end
    if keep then
      wait.move_waitpoint(r, id, 's')
    else
      wait.finish_waitpoint(r, { id = id, state = 'a' }, 'c', why, at)
    end
  end
  drop(r, 'wid', 'sto', 'wr')
end

-- resume makes the execution runnable again, at once or after a delay. Its attempt
-- stays paused until the resumed claim.
function wait.resume(r, at, delay)
  if delay > 0 then
    make_delayed(r, S(wait.instant(at, delay)), 'waiting_for_resume_delay')
  else
    make_eligible(r)
  end
end

-- told_signals adds signals with their payloads to an answer: number, record, effect
-- and payload of each.
function wait.told_signals(tag, e, list, out)
  local key = exec_key(tag, e, 'signals')
  for _, seq in ipairs(list) do
    seq = S(seq)
    local v = redis.call('HMGET', key, seq, 'e' .. seq, 'p' .. seq)
    out[#out + 1] = seq
    for i = 1, 3 do
      out[#out + 1] = v[i] or ''
    end
  end
  return out
end
