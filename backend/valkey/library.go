package valkey

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flowfabric/flowfabric"
)

//go:embed lua/*.lua lua/revision.txt
var luaFiles embed.FS

// libraryABI is raised when arguments, keys or meanings of functions change so
// that callers of the former library can't use the new one. The revision, which
// grows with every change of the source, is in lua/revision.txt and is kept by
// "go test -run TestLibraryRevision -update".
const libraryABI = 2

// sharedLua are the files whose local names all others see, in this order.
// Every other file is a block of its own, which keeps the library below Lua's
// limit of 200 local names.
var sharedLua = []string{"helpers.lua", "record.lua", "release.lua", "execution.lua", "lease.lua", "claim.lua", "upkeep.lua", "scheduler.lua"}

// testClockMark is the line of helpers.lua, right behind the function now, that
// makes room for testClockLua.
const testClockMark = "-- TEST CLOCK"

// testClockLua lets a test set what now returns.
const testClockLua = `
do
  local real, set = now, nil
  now = function()
    if set then
      return set, string.format('%d', set)
    end
    return real()
  end
  redis.register_function{
    function_name = 'ff_test_clock',
    callback = function(_, args)
      set = tonumber(args[1])
      if set == 0 then
        set = nil
      end
      return {'ok'}
    end,
    flags = {'no-writes', 'allow-stale'},
  }
end
`

// libraryOptions are for tests; the zero value is what servers load.
type libraryOptions struct {
	testClock bool
	abi       int    // 0: libraryABI
	revision  int    // 0: that of lua/revision.txt
	extra     string // appended to the source
}

// libraryVersion is what ff_version tells.
type libraryVersion struct {
	abi, revision int
	checksum      string
}

func (v libraryVersion) String() string {
	return strconv.Itoa(v.abi) + "." + strconv.Itoa(v.revision) + "." + v.checksum
}

func parseLibraryVersion(text string) (libraryVersion, bool) {
	parts := strings.SplitN(text, ".", 3)
	if len(parts) != 3 {
		return libraryVersion{}, false
	}
	abi, err1 := strconv.Atoi(parts[0])
	revision, err2 := strconv.Atoi(parts[1])
	return libraryVersion{abi, revision, parts[2]}, err1 == nil && err2 == nil
}

// buildLibrary puts the files together.
func buildLibrary(opt libraryOptions) (source string, v libraryVersion) {
	var b strings.Builder
	b.WriteString("#!lua name=flowfabric\n")
	for _, name := range luaOrder() {
		raw, err := luaFiles.ReadFile(path.Join("lua", name))
		if err != nil {
			continue // a shared file that is not there
		}
		if slices.Contains(sharedLua, name) {
			b.WriteString(string(raw) + "\n")
		} else {
			b.WriteString("do\n" + string(raw) + "\nend\n")
		}
	}
	b.WriteString(opt.extra)
	source = b.String()
	if opt.testClock {
		source = strings.Replace(source, testClockMark, testClockLua, 1)
	}
	sum := sha256.Sum256([]byte(source))
	revision, _ := storedRevision()
	v = libraryVersion{abi: libraryABI, revision: revision, checksum: hex.EncodeToString(sum[:6])}
	if opt.abi != 0 {
		v.abi = opt.abi
	}
	if opt.revision != 0 {
		v.revision = opt.revision
	}
	return strings.Replace(source, "@VERSION@", v.String(), 1), v
}

// luaOrder lists the files: the shared ones, then the others by name.
func luaOrder() []string {
	entries, err := fs.Glob(luaFiles, "lua/*.lua")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	order := slices.Clone(sharedLua)
	for _, e := range entries {
		if name := path.Base(e); !slices.Contains(sharedLua, name) {
			order = append(order, name)
		}
	}
	return order
}

// storedRevision reads lua/revision.txt: "<revision> <checksum>".
func storedRevision() (revision int, checksum string) {
	raw, err := luaFiles.ReadFile("lua/revision.txt")
	if err != nil {
		panic(err) // it is embedded
	}
	fields := strings.Fields(string(raw))
	if len(fields) != 2 {
		return 0, ""
	}
	revision, _ = strconv.Atoi(fields[0])
	return revision, fields[1]
}

// Pauses between the tries to load the library. (Specification 07, section 5.1.)
var loadPauses = []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second, 7 * time.Second}

// library keeps the functions in the store.
type library struct {
	s          *Store
	source     string
	version    libraryVersion
	generation atomic.Uint64 // repairs done
	loads      atomic.Int64  // FUNCTION LOAD commands sent

	mu sync.Mutex // held during a repair: one at a time
}

func (l *library) build() {
	opt := l.s.cfg.Testing.library
	opt.testClock = opt.testClock || l.s.cfg.Testing.Clock
	l.source, l.version = buildLibrary(opt)
}

// ensureAll is EnsureLibrary on every primary, in parallel.
func (l *library) ensureAll(ctx context.Context) error {
	return l.s.everyNode(ctx, l.ensure)
}

// ensure loads the library into a primary where it is missing or older.
func (l *library) ensure(ctx context.Context, n *node) error {
	for try := 0; ; try++ {
		have, err := l.loaded(ctx, n)
		if err == nil {
			var load bool
			if load, err = l.decide(n, have); err == nil && !load {
				return nil
			}
			if err == nil {
				err = l.load(ctx, n)
			}
		}
		switch {
		case err == nil:
			if have, err = l.loaded(ctx, n); err == nil {
				if have == nil || have.abi < l.version.abi || have.abi == l.version.abi && have.revision < l.version.revision {
					return flowfabric.NewError(flowfabric.CodeLibraryLoadFailed, "%s does not keep the library", n.addr)
				}
				return nil
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case permanent(err):
			return err
		}
		if try == len(loadPauses) {
			return flowfabric.NewError(flowfabric.CodeLibraryLoadFailed, "the library could not be loaded into %s", n.addr).Wrap(err)
		}
		l.s.log.Warn("the library could not be loaded; another try follows", "node", n.addr, "error", err)
		l.s.nodes.refresh(ctx, n)
		if n.retired.Load() || !slices.Contains(l.s.nodes.primaries(), n) {
			return nil // it is no primary any more; its successor has a copy
		}
		if err := sleep(ctx, loadPauses[try]); err != nil {
			return err
		}
	}
}

// loaded returns what ff_version of a node tells, nil when it is missing.
func (l *library) loaded(ctx context.Context, n *node) (*libraryVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, l.s.cfg.RequestTimeout)
	defer cancel()
	text, err := n.client.Do(ctx, n.client.B().Arbitrary("FCALL_RO", "ff_version", "0").Build()).ToString()
	if err != nil {
		do, e := react(fault{node: n, err: err}, true)
		if do == load {
			return nil, nil
		}
		return nil, e
	}
	v, ok := parseLibraryVersion(text)
	if !ok {
		return nil, flowfabric.NewError(flowfabric.CodeLibraryAbiMismatch, "%s has a library of the unreadable version %q", n.addr, text)
	}
	return &v, nil
}

// decide says whether to load over what is there, or refuses. (Specification 07,
// section 5.1.)
func (l *library) decide(n *node, have *libraryVersion) (bool, error) {
	mine := l.version
	switch {
	case have == nil:
		return true, nil
	case have.abi > mine.abi:
		return false, flowfabric.NewError(flowfabric.CodeLibraryTooNew, "%s has library %s, this program knows ABI %d", n.addr, have, mine.abi).
			With("found", have.String()).With("known", mine.String())
	case have.abi < mine.abi:
		if l.s.cfg.AllowLibraryUpgrade {
			l.s.log.Warn("the library is replaced by one of a higher ABI; older servers and workers will fail", "node", n.addr, "from", have.String(), "to", mine.String())
			return true, nil
		}
		return false, flowfabric.NewError(flowfabric.CodeLibraryAbiMismatch,
			"%s has library %s, this program needs ABI %d; stop the older servers and workers and allow the upgrade", n.addr, have, mine.abi).
			With("found", have.String()).With("known", mine.String())
	case have.revision < mine.revision:
		return true, nil
	case have.revision > mine.revision:
		l.s.log.Info("the library in the store is newer and stays", "node", n.addr, "found", have.String(), "known", mine.String())
		return false, nil
	case have.checksum == mine.checksum:
		return false, nil
	case l.s.cfg.ForceLibraryReload || l.s.cfg.Testing.Clock:
		return true, nil
	}
	return false, flowfabric.NewError(flowfabric.CodeLibraryAbiMismatch,
		"%s has another library of the same revision: %s, this program has %s", n.addr, have, mine).
		With("found", have.String()).With("known", mine.String())
}

// load sends the library. An error of the source is permanent.
func (l *library) load(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.cfg.RequestTimeout)
	defer cancel()
	l.loads.Add(1)
	err := n.client.Do(ctx, n.client.B().FunctionLoad().Replace().FunctionCode(l.source).Build()).Error()
	if err == nil {
		l.s.log.Info("library loaded", "node", n.addr, "version", l.version.String())
		return nil
	}
	_, e := react(fault{node: n, err: err}, true) // loading twice does no harm: repeat like a read
	if e.Code == flowfabric.CodeStoreFault && e.Kind == "other" {
		return flowfabric.NewError(flowfabric.CodeInternal, "the library does not load: %s", e.Message)
	}
	return e
}

// repair brings the functions back after a call has not found its own: at most
// one at a time, and none when one was done since the call began. A worker can
// only wait for a server to do it.
func (l *library) repair(ctx context.Context, seen uint64) error {
	if l.s.cfg.Role == RoleWorker {
		return l.await(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.generation.Load() != seen {
		return nil
	}
	if err := l.s.checkDeployment(ctx); err != nil {
		return err // another store: nothing may be written there
	}
	if err := l.ensureAll(ctx); err != nil {
		return err
	}
	l.generation.Add(1)
	return nil
}

// check loads the library where it is missing: after a failover, on a new shard.
func (l *library) check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.s.checkDeployment(ctx); err != nil {
		return err
	}
	before := l.loads.Load()
	err := l.ensureAll(ctx)
	if l.loads.Load() != before {
		l.generation.Add(1)
	}
	return err
}

// await waits until all primaries have the library, for as long as LibraryWait.
func (l *library) await(ctx context.Context) error {
	limit := time.Now().Add(l.s.cfg.LibraryWait)
	for pause := libraryBackoff; ; pause = min(2*pause, time.Second) {
		err := l.s.everyNode(ctx, func(ctx context.Context, n *node) error {
			have, err := l.loaded(ctx, n)
			switch {
			case err != nil:
				return err
			case have == nil:
				return flowfabric.NewError(flowfabric.CodeLibraryMissing, "%s has no function library; a server must load it", n.addr)
			case have.abi != l.version.abi:
				return flowfabric.NewError(flowfabric.CodeLibraryAbiMismatch, "%s has library %s, this program needs ABI %d", n.addr, have, l.version.abi).
					With("found", have.String()).With("known", l.version.String())
			}
			return nil
		})
		left := time.Until(limit)
		if err == nil || permanent(err) || ctx.Err() != nil || left <= 0 {
			return err
		}
		if err := sleep(ctx, min(pause, left)); err != nil {
			return err
		}
	}
}
