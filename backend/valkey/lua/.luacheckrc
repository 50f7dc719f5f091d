-- The Lua that runs inside Valkey: 5.1, with the globals of its functions.
std = "lua51"
max_line_length = 140
read_globals = { "redis", "server", "cjson", "cmsgpack", "struct", "bit" }
-- Every registered function is given its keys and its arguments.
unused_args = false
