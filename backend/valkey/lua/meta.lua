-- The library about itself, and the deployment it serves. This file uses nothing
-- of the others, so that it works whatever state they are in.

-- ff_version: what is loaded.
-- KEYS  none
-- ARGV  none
-- ->    "abi.revision.checksum"
redis.register_function{
  function_name = 'ff_version',
  callback = function()
    return '@VERSION@'
  end,
  flags = {'no-writes', 'allow-stale'},
}

-- ff_init_deployment: writes the deployment's configuration, all of it, unless
-- there is one; never changes one that is there, whole or not.
-- KEYS  1 ff:config:partitions
-- ARGV  1 flow partitions  2 budget partitions  3 quota partitions
--       4 schema version  5 deployment id
-- ->    what is stored now: field, value, field, value, ...
redis.register_function{
  function_name = 'ff_init_deployment',
  callback = function(keys, args)
    local key = keys[1]
    if redis.call('EXISTS', key) == 0 then
      local t = redis.call('TIME')
      redis.call('HSET', key,
        'num_flow_partitions', args[1],
        'num_budget_partitions', args[2],
        'num_quota_partitions', args[3],
        'schema_version', args[4],
        'deployment_id', args[5],
        'created_at', string.format('%d', tonumber(t[1]) * 1000 + math.floor(tonumber(t[2]) / 1000)))
    end
    redis.setresp(2)
    return redis.call('HGETALL', key)
  end,
}

-- ff_set_feeds: says which feeds are written besides completions.
-- KEYS  1 ff:config:feeds
-- ARGV  feed, "on" or "off", feed, "on" or "off", ...
-- ->    {"ok"}
redis.register_function{
  function_name = 'ff_set_feeds',
  callback = function(keys, args)
    redis.call('HSET', keys[1], unpack(args))
    return {'ok'}
  end,
}
