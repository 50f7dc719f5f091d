package valkey

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/flowfabric/flowfabric"
)

// soon is what a claimer may wait, in the median, for work of another process.
// (Chapter 07, scenario 41.)
const soon = 50 * time.Millisecond

// idleClaim is a claim that waits.
type idleClaim struct {
	got chan []flowfabric.ClaimedExecution
}

// wait begins a waiting claim, which is armed on the partition when wait returns.
func (p *party) wait(at place, part uint16, ns flowfabric.Namespace, caps ...string) idleClaim {
	p.t.Helper()
	c := idleClaim{make(chan []flowfabric.ClaimedExecution, 1)}
	others := p.eng.Stats().ClaimWaiters
	go func() { c.got <- p.claim(1, 20*time.Second, ns, caps...) }()
	eventually(p.t, "the claim waits", func() bool { return p.eng.Stats().ClaimWaiters > others && at.armedAt(part) })
	return c
}

// after returns how long after an instant the claim got the execution.
func (c idleClaim) after(t testing.TB, begun time.Time, want flowfabric.ExecutionID) time.Duration {
	t.Helper()
	got := <-c.got
	took := time.Since(begun)
	if len(got) != 1 || got[0].ExecutionID != want {
		t.Fatalf("after %v the claimer got %d tasks, want %s", took, len(got), want)
	}
	return took
}

// Chapter 07, scenario 41: an idle claimer is told of what another process creates,
// by one message.
func TestScenario41IdleClaimer(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			creator, claimer := joinParty(t, at), joinParty(t, at)
			var took []time.Duration
			for i := range 21 {
				part := uint16(i * 11)
				c := claimer.wait(at, part, "")
				before := at.calls(t, "spublish")
				begun := time.Now()
				id := creator.create(job{part: part})
				took = append(took, c.after(t, begun, id))
				if n := at.calls(t, "spublish") - before; n != 1 {
					t.Errorf("%d messages for one creation", n)
				}
			}
			if m := median(took); m > soon {
				t.Errorf("the claimer waits %v in the median", m)
			}
		})
	}
}

// Chapter 07, scenario 42: nobody is armed, nobody is told.
func TestScenario42NobodyArmed(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			creator := joinParty(t, at)
			for i := range 10 {
				items := make([]flowfabric.CreateExecutionArgs, 100)
				for k := range items {
					items[k] = job{part: uint16((100*i + k) % 256)}.args()
				}
				creator.createAll(items...)
			}
			if n := at.calls(t, "spublish"); n != 0 {
				t.Errorf("%d messages", n)
			}
			// The count would show one.
			claimer := joinParty(t, at)
			if n := len(claimer.claim(100, 0, "", "a-capability")); n != 100 {
				t.Fatalf("claimed %d", n)
			}
			creator.create(job{part: 1})
			if n := at.calls(t, "spublish"); n != 1 {
				t.Errorf("%d messages for a creation on an armed partition", n)
			}
		})
	}
}

// Chapter 07, scenario 43: a claim that comes away empty and a creation meet. Either
// the claim saw the execution, or the creation told of it.
func TestScenario43EmptyClaimMeetsCreation(t *testing.T) {
	rounds := 10_000
	if testing.Short() {
		rounds = 1_000
	}
	at := onServer(t)
	creator, claimer := joinParty(t, at, partitions(1)), joinParty(t, at)
	info := at.server.Dial()
	messages := func() int {
		text, err := info.Do("INFO", "commandstats")
		if err != nil {
			t.Fatal(err)
		}
		s, _ := text.(string)
		return callsOf(parseInfo("node", s).fields, "spublish")
	}
	claimed, told := 0, 0
	before := messages()
	for i := range rounds {
		switch i % 3 {
		case 0: // the claim looks
			claimer.ready.forget()
		case 1: // the claim visits a place that is empty
			claimer.ready.note(partyLane, partyNamespace, "", offerPlace{score: int64(claimer.Now())})
		} // or it trusts in being told
		var got []flowfabric.ClaimedExecution
		var both sync.WaitGroup
		both.Go(func() { got = claimer.claim(1, 0, "") })
		id := creator.create(job{})
		both.Wait()
		after := messages()
		switch {
		case len(got) > 0:
			claimed++
		case after == before:
			t.Fatalf("round %d: the claim came away empty, and nobody was told", i)
		default:
			told++
			// Whoever was told comes back.
			waiting := claimer.claim(1, 10*time.Second, "")
			if len(waiting) != 1 || waiting[0].ExecutionID != id {
				t.Fatalf("round %d: %d tasks after the message", i, len(waiting))
			}
		}
		before = after
	}
	t.Logf("%d claims saw the execution, %d were told", claimed, told)
	if claimed == 0 || told == 0 {
		t.Error("the two never met")
	}
}

// Chapter 07, scenario 44: what was created while a process could not hear is found
// when it listens again, not by a sweep.
func TestScenario44SubscriberCut(t *testing.T) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			at := f.take(t)
			creator, claimer := joinParty(t, at), joinParty(t, at)
			for i := range 3 {
				part := uint16(50 * i)
				again := make(chan struct{}, 1)
				stop := claimer.Watch(func(events []flowfabric.WakeEvent) {
					for _, e := range events {
						if e.Kind == flowfabric.WakeLane {
							select {
							case again <- struct{}{}:
							default:
							}
						}
					}
				})
				c := claimer.wait(at, part, "")
				cut := 0
				for _, s := range at.primaries() {
					n, _ := s.Must("CLIENT", "KILL", "TYPE", "pubsub").(int64)
					cut += int(n)
				}
				if cut == 0 {
					t.Fatal("nobody was subscribed")
				}
				begun := time.Now()
				id := creator.create(job{part: part})
				took := c.after(t, begun, id)
				<-again // it does listen again
				stop()
				if took > 4*time.Second {
					t.Errorf("claimed after %v", took)
				}
				// And hears.
				next := claimer.wait(at, part, "")
				begun = time.Now()
				id = creator.create(job{part: part})
				if took := next.after(t, begun, id); took > 4*time.Second {
					t.Errorf("claimed after %v", took)
				}
			}
		})
	}
}

// Chapter 07, scenario 45: those who wait for events or endings of a partition do
// not hold up who writes there.
func TestScenario45WaitingDelaysNobody(t *testing.T) {
	at := onServer(t)
	p := joinParty(t, at)
	id := p.create(job{part: 5})
	task := p.claim(1, 0, "")[0]
	var blocked sync.WaitGroup
	ended := make(chan string, 20)
	for i := range 8 {
		blocked.Go(func() {
			res, err := p.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: flowfabric.FeedCompletions, Partitions: []uint16{5}, BlockMs: 30_000})
			ended <- fmt.Sprint("read ", i, ": ", len(res.Events), err)
		})
		blocked.Go(func() {
			res, err := p.WaitExecution(t.Context(), flowfabric.WaitExecutionArgs{ExecutionID: id, WaitMs: 30_000})
			ended <- fmt.Sprint("wait ", i, ": ", res.Terminal, err)
		})
	}
	eventually(t, "all wait", func() bool {
		p.wakes.listening.Lock()
		defer p.wakes.listening.Unlock()
		return p.wakes.wanted[5] >= 16
	})
	var took []time.Duration
	for range 100 {
		begun := time.Now()
		p.renew(task)
		p.create(job{part: 5})
		took = append(took, time.Since(begun))
	}
	if m := median(took); m > 100*time.Millisecond {
		t.Errorf("a renewal and a creation take %v", m)
	}
	if n := len(ended); n != 0 {
		t.Errorf("%d of those who wait were answered before anything ended: %s", n, <-ended)
	}
	p.complete(task, nil)
	blocked.Wait()
}

// A message about what a waiting claim cannot take must not make it deaf to what
// comes after: the wake-up of a partition goes off once. (Specification 02, section
// 7.3; 07, section 10.)
func TestWaitingClaimHearsBehindOtherWork(t *testing.T) {
	for _, f := range forms {
		for _, c := range []struct {
			name        string
			other, mine job
			ns          flowfabric.Namespace
			caps        []string
		}{
			{name: "capabilities", other: job{caps: "gpu"}, mine: job{caps: "cpu"}, caps: []string{"cpu"}},
			{name: "namespace", other: job{ns: "theirs"}, mine: job{}, ns: partyNamespace},
		} {
			t.Run(f.name+"/"+c.name, func(t *testing.T) {
				at := f.take(t)
				creator, claimer := joinParty(t, at), joinParty(t, at)
				var took []time.Duration
				for i := range 11 {
					part := uint16(i * 23)
					idle := claimer.wait(at, part, c.ns, c.caps...)
					other, mine := c.other, c.mine
					other.part, mine.part = part, part
					creator.create(other)
					begun := time.Now()
					id := creator.create(mine)
					took = append(took, idle.after(t, begun, id))
				}
				if m := median(took); m > 2*soon {
					t.Errorf("the claimer waits %v in the median", m)
				}
			})
		}
	}
}

// Two claims wait in one process, two executions of different buckets come to one
// partition, one message tells of the first.
func TestTwoWaitingClaimsTwoBuckets(t *testing.T) {
	at := onServer(t)
	creator, claimer := joinParty(t, at), joinParty(t, at)
	var took []time.Duration
	for i := range 11 {
		part := uint16(i * 23)
		first := claimer.wait(at, part, "", "cpu")
		second := claimer.wait(at, part, "", "cpu")
		begun := time.Now()
		creator.create(job{part: part})
		creator.create(job{part: part, caps: "cpu"})
		for _, c := range []idleClaim{first, second} {
			if got := <-c.got; len(got) != 1 {
				t.Fatalf("%d tasks", len(got))
			}
		}
		took = append(took, time.Since(begun))
	}
	if m := median(took); m > 2*soon {
		t.Errorf("the claimers wait %v in the median", m)
	}
}

// Work of a higher priority on a partition whose wake-up is not armed is found by
// the next sweep. (Specification 07, section 9.)
func TestSweepFindsBetterWork(t *testing.T) {
	at := onServer(t)
	creator, claimer := joinParty(t, at, partitions(4)), joinParty(t, at)
	for part := range uint16(4) {
		for range 5 {
			creator.create(job{part: part})
		}
	}
	claimer.claim(1, 0, "")
	for part := range uint16(4) { // the first tells, the second does not
		creator.create(job{part: part})
	}
	best := creator.create(job{part: 3, priority: 9})
	if err := claimer.sweepReady(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := claimer.claim(1, 0, ""); len(got) != 1 || got[0].ExecutionID != best {
		t.Errorf("claimed %v, want %s", got, best)
	}
}

// Whoever reads a feed in one process hears at once of what another one does: of
// endings in both feeds. (Chapter 07, section 10.)
func TestFeedReaderHearsOtherProcess(t *testing.T) {
	for _, f := range forms {
		for _, feed := range []flowfabric.Feed{flowfabric.FeedCompletions, flowfabric.FeedLeases} {
			t.Run(f.name+"/"+string(feed), func(t *testing.T) {
				at := f.take(t)
				leases := func(c *Config) { c.Feeds = []flowfabric.Feed{flowfabric.FeedLeases} }
				writer, reader := joinParty(t, at, leases), joinParty(t, at, leases)
				var took []time.Duration
				for i := range 11 {
					writer.create(job{part: uint16(23 * i)})
					task := writer.claim(1, 0, "")[0]
					now, err := reader.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: feed, Start: flowfabric.FeedStartNow})
					reader.ok(err)
					got := make(chan int, 1)
					go func() {
						res, err := reader.ReadFeed(t.Context(), flowfabric.ReadFeedArgs{Feed: feed, Start: now.NextCursor, BlockMs: 20_000})
						if err != nil {
							t.Error(err)
						}
						got <- len(res.Events)
					}()
					eventually(t, "somebody subscribes", func() bool {
						channel := channelDone + partitionTag(uint16(23*i))
						n, _ := at.of(channel).Must("PUBSUB", "SHARDNUMSUB", channel).([]any)
						return len(n) == 2 && n[1] == int64(1) && reader.eng.Stats().FeedReads == 1
					})
					begun := time.Now()
					writer.complete(task, nil)
					if n := <-got; n != 1 {
						t.Fatalf("%d events", n)
					}
					took = append(took, time.Since(begun))
				}
				if m := median(took); m > soon {
					t.Errorf("the reader waits %v in the median", m)
				}
			})
		}
	}
}
