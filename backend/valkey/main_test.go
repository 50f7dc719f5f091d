package valkey

import (
	"os"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

func TestMain(m *testing.M) { os.Exit(valkeytest.Main(m).Run()) }

// testLua are functions for tests of the calls themselves.
const testLua = `
redis.register_function('ff_test_count', function(keys, args)
  return {redis.call('INCRBY', 'ff:count:' .. string.sub(keys[1], 4), args[1])}
end)
redis.register_function('ff_test_once', function(keys)
  return {redis.call('SETNX', 'ff:once:' .. string.sub(keys[1], 4), '1')}
end)
redis.register_function('ff_test_refuse', function(_, args)
  return redis.error_reply('FF ' .. args[1])
end)
redis.register_function('ff_test_fail', function(keys)
  redis.call('SET', 'ff:x:' .. string.sub(keys[1], 4), 'x')
  return redis.call('HGETALL', 'ff:x:' .. string.sub(keys[1], 4))
end)
redis.register_function('ff_test_break', function()
  local t = nil
  return t.field
end)
redis.register_function{function_name = 'ff_test_peek', callback = function(keys)
  return {redis.call('GET', 'ff:count:' .. string.sub(keys[1], 4)) or '0'}
end, flags = {'no-writes'}}
redis.register_function{function_name = 'ff_test_now', callback = function()
  return {(now())}
end, flags = {'no-writes'}}
`

// testConfig is a server on the address, with the functions of testLua, that
// gives up soon.
func testConfig(addrs ...string) Config {
	return Config{Addrs: addrs, ConnectWait: 2 * time.Second, BootWait: 100 * time.Millisecond, LibraryWait: 100 * time.Millisecond,
		Testing: Testing{library: libraryOptions{extra: testLua}}}
}

func openTest(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !t.Failed() {
			t.Log("close:", err)
		}
	})
	return s
}

func wantCode(t testing.TB, err error, code flowfabric.Code) *flowfabric.Error {
	t.Helper()
	e := flowfabric.AsError(err)
	if e == nil || e.Code != code {
		t.Fatalf("got error %v, want %s", err, code)
	}
	return e
}

func firstNumber(t testing.TB, s *Store, fn, tag string, args ...string) int64 {
	t.Helper()
	msg, err := s.call(t.Context(), fn, tag, args...)
	if err != nil {
		t.Fatal(err)
	}
	list, err := msg.AsIntSlice()
	if err != nil || len(list) == 0 {
		t.Fatalf("%s: %v, %v", fn, list, err)
	}
	return list[0]
}
