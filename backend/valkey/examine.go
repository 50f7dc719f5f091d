package valkey

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
)

// Verdict is the outcome of one check of [Examine].
type Verdict string

// The verdicts.
const (
	VerdictOK   Verdict = "ok"
	VerdictWarn Verdict = "warn"
	VerdictFail Verdict = "fail"
)

// Finding is what one check of [Examine] has found, and what to do about it.
type Finding struct {
	Check   string
	Verdict Verdict
	Detail  string
	Advice  string
}

// What Examine worries about.
const (
	slowAnswer    = 10 * time.Millisecond
	clockSkew     = 500 * time.Millisecond // primaries and replicas must agree within it
	memoryWarning = 80                     // percent of maxmemory
	memoryAlarm   = 95
	probes        = 5
)

// Examine looks at a store and everything that a deployment needs of it: every
// node's version and clock, and each primary's settings, memory, persistence,
// replicas and function library. It writes nothing and needs neither server nor
// deployment. It goes on as far as it can get.
func Examine(ctx context.Context, cfg Config) []Finding {
	e := &examiner{}
	cfg.Role = RoleWorker
	if err := cfg.complete(); err != nil {
		e.failed("store", err, "")
		return e.findings
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	s := &Store{cfg: cfg, log: cfg.Logger}
	s.lib.s = s
	s.lib.build()
	defer s.nodes.close()
	if err := s.connect(ctx); err != nil {
		check, advice := "store", "is the address right, and does the store run?"
		switch flowfabric.CodeOf(err) {
		case flowfabric.CodeStoreModeMismatch:
			check, advice = "mode", "set or leave out cluster (FF_VALKEY_CLUSTER, or ?cluster=1 in the URL)"
		case flowfabric.CodeStoreFault:
			advice = "check user, password and ACL"
		}
		e.failed(check, err, advice)
		return e.findings
	}
	e.s = s
	e.look(ctx)
	e.reachable()
	e.versions()
	e.eviction()
	e.memory()
	e.encodings()
	e.persistence()
	e.replicas()
	e.library(ctx)
	e.deployment(ctx)
	e.clocks()
	return e.findings
}

type examiner struct {
	s         *Store
	primaries []*examined
	copies    []*examined
	findings  []Finding
}

// examined is what a node has told.
type examined struct {
	nodeInfo
	node     *node // of a primary
	err      error
	settings map[string]string // nil when CONFIG is forbidden
	latency  time.Duration     // the median of some
	ahead    time.Duration     // its clock before ours
}

func (e *examiner) add(check string, v Verdict, detail, advice string) {
	e.findings = append(e.findings, Finding{check, v, detail, advice})
}

func (e *examiner) failed(check string, err error, advice string) {
	e.add(check, VerdictFail, err.Error(), advice)
}

// look asks all nodes.
func (e *examiner) look(ctx context.Context) {
	for _, n := range e.s.nodes.primaries() {
		e.primaries = append(e.primaries, e.ask(ctx, n))
	}
	t := e.s.nodes.table.Load()
	if t == nil {
		return
	}
	for _, addr := range t.replicas {
		client, err := e.s.nodes.connect(addr)
		x := &examined{nodeInfo: nodeInfo{addr: addr}, err: err}
		if err == nil {
			x = e.ask(ctx, &node{addr: addr, client: client})
		}
		if client != nil {
			client.Close()
		}
		e.copies = append(e.copies, x)
	}
}

func (e *examiner) ask(ctx context.Context, n *node) *examined {
	x := &examined{node: n}
	if x.nodeInfo, x.err = e.s.info(ctx, n.addr, n.client); x.err != nil {
		x.addr = n.addr
		return x
	}
	x.settings, _ = e.s.settings(ctx, n, "hash-max-listpack-entries", "hash-max-listpack-value", "appendfsync")
	took := make([]time.Duration, 0, probes)
	best := time.Duration(0)
	for range probes {
		offset, rtt, err := e.s.clockOffset(ctx, n)
		if err != nil {
			x.err = err
			return x
		}
		if best == 0 || rtt < best { // the quickest answer tells the time best
			best, x.ahead = rtt, time.Duration(offset)*time.Millisecond
		}
		took = append(took, rtt)
	}
	slices.Sort(took)
	x.latency = took[len(took)/2]
	return x
}

// answered returns the nodes of the list that told of themselves.
func answered(list []*examined) []*examined {
	return slices.DeleteFunc(slices.Clone(list), func(x *examined) bool { return x.err != nil })
}

func (e *examiner) nodes() []*examined { return append(slices.Clone(e.primaries), e.copies...) }

func (e *examiner) reachable() {
	for _, x := range e.nodes() {
		if x.err != nil {
			e.failed("store", fmt.Errorf("%s: %w", x.addr, x.err), "every node must be reachable from servers and workers")
			return
		}
	}
	slowest := slices.MaxFunc(e.primaries, func(a, b *examined) int { return int(a.latency - b.latency) })
	mode := "one node"
	if e.s.nodes.cluster {
		mode = fmt.Sprintf("a cluster of %d primaries and %d replicas", len(e.primaries), len(e.copies))
	}
	detail := fmt.Sprintf("%s, answering within %s", mode, slowest.latency.Round(10*time.Microsecond))
	if slowest.latency > slowAnswer {
		e.add("store", VerdictWarn, detail, "keep servers, workers and the store in one network: every operation is a round trip")
		return
	}
	e.add("store", VerdictOK, detail, "")
}

func (e *examiner) versions() {
	lowest := ""
	for _, x := range answered(e.nodes()) {
		if err := x.checkVersion(e.s.cfg.AllowRedis); err != nil {
			e.failed("store version", err, "upgrade every node to Valkey 7.2 or later")
			return
		}
		text, valkey := x.version()
		if !valkey {
			e.add("store version", VerdictWarn, "Redis "+text+", on which FlowFabric is not tested", "use Valkey")
			return
		}
		if lowest == "" || lowerVersion(text, lowest) {
			lowest = text
		}
	}
	e.add("store version", VerdictOK, "Valkey "+lowest, "")
}

func (e *examiner) eviction() {
	for _, x := range answered(e.primaries) {
		if policy := x.fields["maxmemory_policy"]; policy != "noeviction" {
			e.add("eviction", VerdictFail, fmt.Sprintf("%s has maxmemory-policy %q: it would delete records", x.addr, policy), "set maxmemory-policy noeviction")
			return
		}
	}
	e.add("eviction", VerdictOK, "nothing is evicted", "")
}

func (e *examiner) memory() {
	fullest, at, unbounded := int64(-1), "", ""
	for _, x := range answered(e.primaries) {
		used, _ := strconv.ParseInt(x.fields["used_memory"], 10, 64)
		limit, _ := strconv.ParseInt(x.fields["maxmemory"], 10, 64)
		if limit == 0 {
			unbounded = x.addr
			continue
		}
		if percent := used * 100 / limit; percent > fullest {
			fullest, at = percent, x.addr
		}
	}
	switch {
	case fullest >= memoryAlarm:
		e.add("memory", VerdictFail, fmt.Sprintf("%s uses %d %% of maxmemory", at, fullest), "at 100 % creates are refused with store_full: raise maxmemory, add shards, or shorten the retention")
	case fullest >= memoryWarning:
		e.add("memory", VerdictWarn, fmt.Sprintf("%s uses %d %% of maxmemory", at, fullest), "raise maxmemory, add shards, or shorten the retention")
	case unbounded != "":
		e.add("memory", VerdictWarn, unbounded+" has no maxmemory", "set maxmemory below the machine's memory, so that a full store refuses work in place of being killed")
	default:
		e.add("memory", VerdictOK, fmt.Sprintf("at most %d %% of maxmemory used", fullest), "")
	}
}

func (e *examiner) encodings() {
	for _, x := range answered(e.primaries) {
		if x.settings == nil {
			e.add("encodings", VerdictWarn, x.addr+": CONFIG is forbidden, the settings can't be read", "hash-max-listpack-entries and hash-max-listpack-value must be at least 64")
			return
		}
		for _, name := range []string{"hash-max-listpack-entries", "hash-max-listpack-value"} {
			if n, err := strconv.Atoi(x.settings[name]); err == nil && n < minListpack {
				e.add("encodings", VerdictFail, fmt.Sprintf("%s has %s %d: records would take three times the memory", x.addr, name, n), "set it to 64 or more; the defaults are fine")
				return
			}
		}
	}
	e.add("encodings", VerdictOK, "small hashes stay compact", "")
}

func (e *examiner) persistence() {
	const advice = "set appendonly yes and appendfsync everysec: without, a restart loses what came after the last snapshot"
	kind := ""
	for _, x := range answered(e.primaries) {
		switch {
		case x.fields["aof_last_write_status"] == "err" || x.fields["aof_last_bgrewrite_status"] == "err":
			e.add("persistence", VerdictFail, x.addr+" can't write its append-only file", "see the store's log; is the disk full?")
			return
		case x.fields["rdb_last_bgsave_status"] == "err":
			e.add("persistence", VerdictFail, x.addr+" can't write its snapshot", "see the store's log; is the disk full?")
			return
		case x.fields["aof_enabled"] != "1":
			e.add("persistence", VerdictWarn, x.addr+" has no append-only file", advice)
			return
		case x.settings["appendfsync"] == "no":
			e.add("persistence", VerdictWarn, x.addr+" never syncs its append-only file itself", advice)
			return
		}
		kind = x.settings["appendfsync"]
	}
	detail := "append-only file"
	if kind != "" {
		detail += ", synced " + kind
	}
	e.add("persistence", VerdictOK, detail, "")
}

func (e *examiner) replicas() {
	for _, x := range answered(e.copies) {
		if x.fields["master_link_status"] == "down" {
			e.add("replicas", VerdictWarn, x.addr+" has lost its primary", "it can't take over with all the data; see its log")
			return
		}
	}
	fewest, at := -1, ""
	for _, x := range answered(e.primaries) {
		if n, err := strconv.Atoi(x.fields["connected_slaves"]); err == nil && (fewest < 0 || n < fewest) {
			fewest, at = n, x.addr
		}
	}
	wanted := 1
	if e.s.cfg.Durability.Mode != DurabilityAsync {
		wanted = max(wanted, e.s.cfg.Durability.Replicas)
	}
	if fewest < wanted {
		v := VerdictWarn
		if e.s.cfg.Durability.Mode != DurabilityAsync && fewest < e.s.cfg.Durability.Replicas {
			v = VerdictFail
		}
		e.add("replicas", v, fmt.Sprintf("%s has %d", at, max(fewest, 0)), fmt.Sprintf("give every primary at least %d: when one is lost, so is what only it had", wanted))
		return
	}
	e.add("replicas", VerdictOK, fmt.Sprintf("at least %d for each primary", fewest), "")
}

func (e *examiner) library(ctx context.Context) {
	seen := map[string]bool{}
	for _, x := range answered(e.primaries) {
		have, err := e.s.lib.loaded(ctx, x.node)
		switch {
		case err != nil:
			e.failed("library", fmt.Errorf("%s: %w", x.addr, err), "")
			return
		case have == nil:
			e.add("library", VerdictFail, x.addr+" has no function library", "a server loads it at its start, and every 30 s where it is missing: flowfabric serve")
			return
		case have.abi != e.s.lib.version.abi:
			e.add("library", VerdictFail, fmt.Sprintf("%s has %s, this program needs ABI %d", x.addr, have, e.s.lib.version.abi), "upgrade this program, or the servers with --valkey-allow-library-upgrade")
			return
		}
		seen[have.String()] = true
	}
	var list []string
	for v := range seen {
		list = append(list, v)
	}
	slices.Sort(list)
	if len(list) > 1 {
		e.add("library", VerdictWarn, "the primaries have "+strings.Join(list, ", "), "a server makes them equal within 30 s")
		return
	}
	e.add("library", VerdictOK, "version "+strings.Join(list, ", "), "")
}

func (e *examiner) deployment(ctx context.Context) {
	stored, err := e.s.readConfig(ctx)
	if err != nil {
		e.failed("deployment", err, "")
		return
	}
	if len(stored) == 0 {
		e.add("deployment", VerdictFail, "the store is not prepared", "start a server: flowfabric serve")
		return
	}
	e.s.cfg.PartitionConfig = flowfabric.PartitionConfig{}
	if err := e.s.bind(stored); err != nil {
		e.failed("deployment", err, "restore "+keyConfig+" from a backup; it must not be edited")
		return
	}
	defer e.secrets(ctx)
	detail := "made " + stored["created_at"]
	if ms, err := strconv.ParseInt(stored["created_at"], 10, 64); err == nil {
		detail = "made " + time.UnixMilli(ms).UTC().Format(time.RFC3339)
	}
	a := e.s.plain(ctx, e.s.b.Zcount().Key(keyServers).Min(strconv.FormatInt(e.latest(), 10)).Max("+inf").Build())[0]
	if n, err := a.msg.AsInt64(); a.err == nil && err == nil {
		if n == 0 {
			e.add("deployment", VerdictWarn, detail+"; no server runs", "nothing falls due and no lease lapses without one: flowfabric serve")
			return
		}
		detail += fmt.Sprintf("; live servers: %d", n)
	}
	e.add("deployment", VerdictOK, detail, "")
}

// secrets compares the copies of the key ring of the waitpoint tokens.
func (e *examiner) secrets(ctx context.Context) {
	const check = "waitpoint secrets"
	cmds := make([]vk.Completed, len(e.s.tags))
	for i, tag := range e.s.tags {
		cmds[i] = e.s.b.Hget().Key(ringKey(tag)).Field("current_kid").Build()
	}
	kids, missing := make(map[string]int), 0
	for _, got := range e.s.plain(ctx, cmds...) {
		if got.err != nil {
			e.failed(check, got.err, "")
			return
		}
		kid, err := got.msg.ToString()
		if err != nil || kid == "" {
			missing++
			continue
		}
		kids[kid]++
	}
	switch {
	case missing > 0:
		e.add(check, VerdictWarn, fmt.Sprintf("%d of %d partitions have no key: no waitpoint can be made there", missing, len(cmds)),
			"a server installs the key of its configuration at its start")
	case len(kids) > 1:
		e.add(check, VerdictWarn, fmt.Sprintf("the partitions have %d different current keys", len(kids)), "repeat the last rotation: it goes on where it broke off")
	default:
		e.add(check, VerdictOK, "every partition has the same current key", "")
	}
}

// latest is the time of the primary that is furthest ahead.
func (e *examiner) latest() int64 {
	ahead := time.Duration(0)
	for i, x := range answered(e.primaries) {
		if i == 0 || x.ahead > ahead {
			ahead = x.ahead
		}
	}
	return time.Now().Add(ahead).UnixMilli()
}

func (e *examiner) clocks() {
	list := answered(e.nodes())
	if len(list) == 0 {
		return
	}
	order := func(a, b *examined) int { return int(a.ahead - b.ahead) }
	first, last := slices.MinFunc(list, order), slices.MaxFunc(list, order)
	if apart := last.ahead - first.ahead; apart > clockSkew {
		e.add("clocks", VerdictFail, fmt.Sprintf("%s and %s are %s apart", first.addr, last.addr, apart), "set the clocks of all nodes by NTP: after a failover the new primary's counts")
		return
	}
	detail := fmt.Sprintf("the store's differs from this machine's by %s", last.ahead)
	if last.ahead.Abs() > clockSkew {
		e.add("clocks", VerdictWarn, detail, "only the store's clock counts, but logs are easier to read when they agree")
		return
	}
	e.add("clocks", VerdictOK, detail, "")
}
