package crashtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/backend/valkey"
	"github.com/flowfabric/flowfabric/internal/valkeytest"
)

// commandCalls is how often a server has executed a command.
func commandCalls(v *valkeytest.Server, command string) int {
	calls, _, _ := strings.Cut(strings.TrimPrefix(v.Info("commandstats")["cmdstat_"+command], "calls="), ",")
	n, _ := strconv.Atoi(calls)
	return n
}

// Chapter 07, scenario 22, with real processes: FUNCTION FLUSH again and again.
// The server loads the library once each time; workers that use the store
// directly wait for that.
func TestFunctionFlushUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	l := startValkeyLoad(t, "valkey://"+v.Addr(), j, allActs)
	before, times := commandCalls(v, "function|load"), 10
	if testing.Short() {
		times = 3
	}
	for n := range times {
		j.awaitAcks(1+rand.IntN(100), 300*time.Millisecond)
		v.Must("FUNCTION", "FLUSH")
		eventually(t, patience, "the library is not loaded again", func() bool { return commandCalls(v, "function|load") > before+n })
	}
	l.finish()
	if loads := commandCalls(v, "function|load") - before; loads != times {
		t.Errorf("%d loads after %d flushes", loads, times)
	}
}

// Chapter 07, scenario 52: the store is full for a while. What is refused has left
// nothing; work under way ends once there is room.
func TestStoreFullUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	j.tolerated = flowfabric.CodeStoreFull
	l := startValkeyLoad(t, "valkey://"+v.Addr(), j, allActs)
	times := 4
	if testing.Short() {
		times = 1
	}
	probes := map[string]flowfabric.Backend{"server": l.server.connect(), "direct": l.direct()}
	for range times {
		j.awaitAcks(20+rand.IntN(100), time.Second)
		v.Must("CONFIG", "SET", "maxmemory", "1mb")
		for name, b := range probes {
			id := flowfabric.DefaultPartitionConfig().NewExecutionID("default")
			_, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{ExecutionID: id, Namespace: Namespace,
				LaneID: "default", Kind: Kind, CreatorIdentity: "crash"})
			if flowfabric.CodeOf(err) != flowfabric.CodeStoreFull {
				t.Errorf("%s: a create on a full store: %v", name, err)
			}
			if e, err := b.DescribeExecution(t.Context(), id); e != nil || err != nil {
				t.Errorf("%s: a refused create has left %+v, %v", name, e, err)
			}
		}
		elapse(400 * time.Millisecond)
		v.Must("CONFIG", "SET", "maxmemory", "0")
	}
	l.finish()
}

// Chapter 07, scenario 49: everything is wiped under load. Within 10 s the server
// is not ready and every call is store_replaced; from then on nothing is written,
// and the deployment is not made anew.
func TestWipedUnderLoad(t *testing.T) {
	v := valkeytest.Start(t, valkeytest.Options{})
	url := "valkey://" + v.Addr()
	s := newStationOn(t, "--backend", url)
	s.start()
	direct := openDirect(t, url)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for _, b := range []flowfabric.Backend{s.connect(), direct} {
		for n := range 2 {
			clients.Go(func() { churn(t, b, fmt.Sprintf("wiped-%d", n), stop) })
		}
	}
	eventually(t, patience, "nothing is done", func() bool { n, _ := v.Must("DBSIZE").(int64); return n > 100 })
	wiped := time.Now()
	v.Must("FLUSHALL")
	eventually(t, 15*time.Second, "the server is still ready", func() bool {
		res, err := http.Get(s.url() + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusServiceUnavailable
	})
	if took := time.Since(wiped); took > 11*time.Second {
		t.Errorf("noticed after %s", took)
	}
	for name, b := range map[string]flowfabric.Backend{"server": s.connect(), "direct": direct} {
		eventually(t, 15*time.Second, name+" does not give store_replaced", func() bool {
			_, err := b.GetLane(t.Context(), "default")
			return flowfabric.CodeOf(err) == flowfabric.CodeStoreReplaced
		})
	}
	close(stop)
	clients.Wait()
	// What was sent before they noticed may still arrive: looks over all partitions
	// of a claim, which arm. It is over when no call has come for half a second.
	calls, since := commandCalls(v, "fcall"), time.Now()
	eventually(t, patience, "functions are still called", func() bool {
		if n := commandCalls(v, "fcall"); n != calls {
			calls, since = n, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	v.Must("FLUSHALL")
	_, err := flowfabric.CreateExecution(t.Context(), direct, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "default", Kind: Kind, CreatorIdentity: "crash"})
	if flowfabric.CodeOf(err) != flowfabric.CodeStoreReplaced {
		t.Errorf("a create: %v", err)
	}
	// Longer than the ticks, the outbox, the heartbeat and the sweeps take.
	<-time.After(6 * time.Second)
	if n := v.Must("DBSIZE"); n != int64(0) {
		t.Errorf("%v keys were written", n)
	}
	if n := commandCalls(v, "fcall"); n != calls {
		t.Errorf("%d functions were called", n-calls)
	}
	s.child.signal(syscall.SIGTERM)
	s.child.ends(t, "the server")
}

// churn creates, claims and completes until it is stopped, whatever comes of it.
func churn(t *testing.T, b flowfabric.Backend, name string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		_, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "default", Kind: Kind, CreatorIdentity: "crash"})
		if err != nil {
			if !unanswered(err) {
				t.Errorf("create: %v", err)
			}
			continue
		}
		got, err := b.ClaimTasks(t.Context(), flowfabric.ClaimTasksArgs{WorkerID: "crash", WorkerInstanceID: flowfabric.WorkerInstanceID(name),
			Lanes: []flowfabric.LaneID{"default"}, Namespace: Namespace, MaxTasks: 2, LeaseTTLMs: 30_000})
		if err != nil && !unanswered(err) {
			t.Errorf("claim: %v", err)
		}
		for _, task := range got.Tasks {
			_, _ = flowfabric.CompleteExecution(t.Context(), b, flowfabric.CompleteExecutionArgs{ExecutionID: task.ExecutionID, Fence: task.Fence})
		}
	}
}

// Chapter 07, scenario 10, with real servers: all boot at once on an empty store.
// With equal counts all start, with different counts those of one kind.
func TestServersRaceAtBoot(t *testing.T) {
	for name, counts := range map[string][]string{"equal": {"64", "64", "64", "64"}, "different": {"64", "128", "64", "128"}} {
		t.Run(name, func(t *testing.T) {
			v := valkeytest.Start(t, valkeytest.Options{})
			var servers []*station
			for _, n := range counts {
				s := newStationOn(t, "--backend", "valkey://"+v.Addr(), "--flow-partitions", n)
				s.launch()
				servers = append(servers, s)
			}
			started := make(map[string]int)
			for i, s := range servers {
				select {
				case <-s.up():
					started[counts[i]]++
				case <-s.child.done:
					if said := s.logs.tail(); s.child.cmd.ProcessState.ExitCode() == 0 || !strings.Contains(said, string(flowfabric.CodePartitionCountMismatch)) {
						t.Errorf("exit code %d: %s", s.child.cmd.ProcessState.ExitCode(), said)
					}
				case <-time.After(patience):
					t.Fatal("a server neither starts nor ends")
				}
			}
			stored, _ := v.Must("HGET", "ff:config:partitions", "num_flow_partitions").(string)
			want := 4
			if name == "different" {
				want = 2
			}
			if len(started) != 1 || started[stored] != want {
				t.Errorf("started %v, stored %s", started, stored)
			}
			for i, s := range servers {
				if counts[i] == stored {
					s.end()
				}
			}
		})
	}
}

// Chapter 07, scenarios 38 and 47: of two servers one is killed with a grant that
// it has issued, while delays and leases run out on all partitions. The other one
// serves them, within 4 of its intervals and what the grant lasts.
func TestServerKilledBesideAnother(t *testing.T) {
	v := valkeytest.Start(t, valkeytest.Options{})
	url := "valkey://" + v.Addr()
	victim, other := newStationOn(t, "--backend", url), newStationOn(t, "--backend", url)
	victim.start()
	other.start()
	b := other.connect()
	parts, err := b.PartitionConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// One of each partition that waits by its own wish, and one whose lease lapses.
	due := flowfabric.Millis(time.Now().UnixMilli() + 3000)
	var delayed, leased []flowfabric.ExecutionID
	for n := 0; len(delayed) < parts.NumFlowPartitions; n++ {
		args := flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "late", Kind: Kind, CreatorIdentity: "crash", DelayUntil: due}
		id := parts.NewExecutionID(args.LaneID)
		if int(id.Partition()) != len(delayed) {
			id = flowfabric.ExecutionID(fmt.Sprintf("{fp:%d}%s", len(delayed), id[strings.IndexByte(string(id), '}')+1:]))
		}
		args.ExecutionID = id
		if _, err := flowfabric.CreateExecution(t.Context(), b, args); err != nil {
			t.Fatal(err)
		}
		delayed = append(delayed, id)
	}
	for range 50 {
		created, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "leased", Kind: Kind, CreatorIdentity: "crash"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = b.IssueGrantAndClaim(t.Context(), flowfabric.IssueGrantAndClaimArgs{ExecutionID: created.ExecutionID, WorkerID: "crash",
			WorkerInstanceID: sceneWorker, LeaseTTLMs: 2000}); err != nil {
			t.Fatal(err)
		}
		leased = append(leased, created.ExecutionID)
	}
	created, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "granted", Kind: Kind, CreatorIdentity: "crash"})
	if err != nil {
		t.Fatal(err)
	}
	ask := flowfabric.ClaimForWorkerArgs{WorkerID: "crash", WorkerInstanceID: sceneWorker, Lanes: []flowfabric.LaneID{"granted"}, Namespace: Namespace, GrantTTLMs: 4000}
	first, err := victim.connect().ClaimForWorker(t.Context(), ask)
	if err != nil || first.Grant == nil || first.Grant.ExecutionID != created.ExecutionID {
		t.Fatalf("granted %+v, %v", first, err)
	}
	victim.kill()
	if again, err := b.ClaimForWorker(t.Context(), ask); err != nil || again.Grant != nil {
		t.Errorf("granted twice: %+v, %v", again, err)
	}
	all := slices.Concat(delayed, leased)
	limit := max(0, time.Until(time.UnixMilli(int64(due)))) + 4*250*time.Millisecond + 4*time.Second // the machine's own slowness
	eventually(t, limit, "not everything due is served", func() bool {
		for len(all) > 0 {
			e, err := b.DescribeExecution(t.Context(), all[0])
			if err != nil {
				t.Fatal(err)
			}
			if e.PublicState != flowfabric.PublicWaiting && e.OwnershipState != flowfabric.OwnershipLeaseExpired {
				return false
			}
			all = all[1:]
		}
		return true
	})
	var grant *flowfabric.Grant
	eventually(t, patience, "the grant does not lapse", func() bool {
		got, err := b.ClaimForWorker(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		grant = got.Grant
		return grant != nil
	})
	task, err := b.ClaimGranted(t.Context(), flowfabric.ClaimGrantedArgs{ExecutionID: grant.ExecutionID, GrantID: grant.GrantID, LaneID: "granted",
		WorkerID: "crash", WorkerInstanceID: sceneWorker, LeaseTTLMs: 30_000})
	if err != nil || task.AttemptIndex != 0 || task.Fence.LeaseEpoch != 1 {
		t.Errorf("claimed %+v, %v", task, err)
	}
	other.end()
}

// Chapter 07, scenario 48: a primary is lost with a claim that its replica never
// got. The execution is claimed again, with the same epoch; the first worker is
// refused, and the second is not disturbed.
func TestLostClaimIsFenced(t *testing.T) {
	c := valkeytest.StartCluster(t, 3, 1, valkeytest.Options{NodeTimeout: 2 * time.Second})
	config, err := valkey.Parse(clusterURL(c, ""))
	if err != nil {
		t.Fatal(err)
	}
	b, err := valkey.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	created, err := flowfabric.CreateExecution(t.Context(), b, flowfabric.CreateExecutionArgs{Namespace: Namespace, LaneID: "default", Kind: Kind, CreatorIdentity: "crash"})
	if err != nil {
		t.Fatal(err)
	}
	id := created.ExecutionID
	primary := c.Owner(c.Slot("ff:" + string(id[:strings.IndexByte(string(id), '}')+1])))
	replica := c.Replicas(primary)[0]
	offset := func(v *valkeytest.Server, field string) int {
		n, _ := strconv.Atoi(v.Info("replication")[field])
		return n
	}
	written := offset(primary, "master_repl_offset")
	eventually(t, patience, "the replica has not got the execution", func() bool { return offset(replica, "slave_repl_offset") >= written })
	replica.Pause()
	primary.Must("CLIENT", "KILL", "TYPE", "REPLICA") // what is written now goes to nobody
	claim := func(ctx context.Context, instance flowfabric.WorkerInstanceID) (flowfabric.ClaimedExecution, error) {
		return b.IssueGrantAndClaim(ctx, flowfabric.IssueGrantAndClaimArgs{ExecutionID: id, WorkerID: "crash", WorkerInstanceID: instance, LeaseTTLMs: 60_000})
	}
	first, err := claim(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	primary.Kill()
	replica.Resume()
	if err := c.WaitOK(patience); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := within(t)
	defer cancel()
	second, err := claim(ctx, "second")
	for err != nil && unanswered(err) && ctx.Err() == nil {
		second, err = claim(ctx, "second")
	}
	if err != nil {
		t.Fatal(err)
	}
	if second.Fence.LeaseEpoch != first.Fence.LeaseEpoch {
		t.Errorf("epochs %d and %d", first.Fence.LeaseEpoch, second.Fence.LeaseEpoch)
	}
	complete := func(f flowfabric.Fence) error {
		_, err := flowfabric.CompleteExecution(ctx, b, flowfabric.CompleteExecutionArgs{ExecutionID: id, Fence: f})
		return err
	}
	if err := complete(first.Fence); flowfabric.CodeOf(err) != flowfabric.CodeStaleLease {
		t.Errorf("the first worker's complete: %v", err)
	}
	if err := complete(second.Fence); err != nil {
		t.Errorf("the second worker's complete: %v", err)
	}
}

// Chapter 07, scenario 53, on Valkey: SIGTERM with requests under way and a feed
// being waited for ends the server in good order, and its leases run on.
func TestTermUnderLoad(t *testing.T) {
	v, j := valkeytest.Start(t, valkeytest.Options{}), newJournal(t)
	l := startValkeyLoad(t, "valkey://"+v.Addr(), j, allActs)
	times := 3
	if testing.Short() {
		times = 1
	}
	for range times {
		tail := make(chan error, 1)
		b := l.server.connect()
		go func() {
			_, err := b.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedSignals, BlockMs: 30_000})
			tail <- err
		}()
		j.awaitAcks(100, 2*time.Second)
		l.server.child.signal(syscall.SIGTERM)
		l.server.child.ends(t, "the server")
		select {
		case <-tail:
		case <-time.After(patience):
			t.Error("a wait for a feed outlives the server")
		}
		if n := v.Must("ZCARD", "ff:idx:servers"); n != int64(0) {
			t.Errorf("%v servers are left in the registry", n)
		}
		l.server.kill() // it has ended; the next one becomes ready anew
		l.server.start()
	}
	l.finish()
}
