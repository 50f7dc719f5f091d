package valkey

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/flowfabric/flowfabric"
	"github.com/google/uuid"
)

func TestBucketRegistryIsRememberedByVersion(t *testing.T) {
	r := openRouted(t)
	at := laneAt{2, "a"}
	list := func(sets []*laneBuckets, err error) string {
		r.ok(err)
		var names []string
		for _, b := range sets[0].list {
			names = append(names, fmt.Sprint(b.namespace, b.required))
		}
		slices.Sort(names)
		return sets[0].version + " " + strings.Join(names, " ")
	}
	equal(t, "empty", list(r.bucketsOf(r.ctx, at)), " ")
	r.create(2, "a", "ns", "", 0)
	r.create(2, "a", "ns", "cuda,gpu", 0)
	equal(t, "remembered", list(r.bucketsOf(r.ctx, at)), " ")
	equal(t, "read anew", list(r.refreshBuckets(r.ctx, at)), "2 ns[] ns[cuda gpu]")
	equal(t, "remembered", list(r.bucketsOf(r.ctx, at)), "2 ns[] ns[cuda gpu]")
	if got := bucketName("ns", "cuda,gpu"); len(got) != 16 || got == bucketName("ns", "") {
		t.Errorf("name is %q", got)
	}
}

func TestLabels(t *testing.T) {
	r := openRouted(t)
	gpu := bucketAt{laneAt{1, "a"}, bucket{bucketName("ns", "gpu"), "ns", []string{"gpu"}}}
	again := bucketAt{laneAt{2, "a"}, gpu.bucket}
	empty := bucketAt{laneAt{3, "a"}, gpu.bucket}
	r.create(1, "a", "ns", "gpu", 0)
	r.create(1, "a", "ns", "gpu", 0)
	r.create(2, "a", "ns", "gpu", 0)
	mark := func() int {
		n, err := r.uncovered(r.ctx, []bucketAt{gpu, again, empty}, false)
		r.ok(err)
		return n
	}
	labelled := func() string {
		l, err := r.label(r.ctx, gpu.laneAt, gpu.name)
		r.ok(err)
		since, last := "-", "-"
		if l.UncoveredSince > 0 {
			since = strconv.Itoa(int(l.UncoveredSince - testEpoch))
		}
		if l.LastMismatchAt > 0 {
			last = strconv.Itoa(int(l.LastMismatchAt - testEpoch))
		}
		return since + " " + last
	}
	sweep := func() int {
		res, err := r.SweepRouteLabels(r.ctx)
		r.ok(err)
		return res.Rows
	}
	equal(t, "before anybody named the lane", mark()+sweep(), 0)
	r.register("ns", "cpu", []flowfabric.LaneID{"a"}, "cpu")
	equal(t, "labelled", mark(), 1)
	equal(t, "label", labelled(), "0 0")
	r.advance(999)
	equal(t, "labelled again", mark(), 0)
	equal(t, "label within a second", labelled(), "0 0")
	r.advance(1)
	mark()
	equal(t, "label after a second", labelled(), "0 1000")
	l, err := r.label(r.ctx, empty.laneAt, empty.name)
	r.ok(err)
	equal(t, "an empty bucket", l.UncoveredSince, 0)

	r.events()
	r.register("other", "gpu", []flowfabric.LaneID{"a"}, "gpu")
	r.register("ns", "gpu", []flowfabric.LaneID{"b"}, "gpu")
	equal(t, "label after workers that do not cover it", labelled(), "0 1000")
	r.register("ns", "gpu", []flowfabric.LaneID{"b", "a"}, "cuda", "gpu")
	equal(t, "label after one that does", labelled(), "- 1000")
	equal(t, "events", r.events(), []string{"1 a ns gpu 1", "1 a ns gpu 2"})
	equal(t, "with a worker that covers it", mark()+sweep(), 0)

	_, err = r.MarkWorkerDead(r.ctx, flowfabric.MarkWorkerDeadArgs{Namespace: "ns", WorkerInstanceID: "gpu", Reason: "gone"})
	r.ok(err)
	equal(t, "labelled by the sweep", sweep(), 2)
	equal(t, "label", labelled(), "1000 1000")
	r.register(flowfabric.AnyNamespace, "any", []flowfabric.LaneID{"a"}, "gpu")
	equal(t, "label after one that serves all", labelled(), "- 1000")

	// A registration runs out; that it covered is not remembered for longer.
	equal(t, "covered", mark(), 0)
	r.advance(60_000)
	equal(t, "labelled when it has run out", mark(), 1)
	r.ok(r.call1("ff_register_worker", registryTag("ns"), "x", "pool", uuid.NewString(), "60000",
		`{"namespace":"ns","worker_id":"pool","worker_instance_id":"x","lanes":["a"],"capabilities":["gpu"]}`))
	equal(t, "lifted by the sweep", sweep(), 2)
}

func (r *routed) call1(fn, tag string, args ...string) error {
	_, err := r.call(r.ctx, fn, tag, args...)
	return err
}

func TestEmptyBucketsLeaveAfterADay(t *testing.T) {
	r := openRouted(t)
	id := r.create(1, "a", "ns", "gpu", 0)
	kept := r.create(1, "a", "ns", "", 0)
	taken := r.claim(1, "a", "ns", "gpu", "i")
	equal(t, "claimed", taken, []flowfabric.ExecutionID{id})
	sweep := func() {
		_, err := r.SweepRouteLabels(r.ctx)
		r.ok(err)
	}
	names := func() []string {
		sets, err := r.refreshBuckets(r.ctx, laneAt{1, "a"})
		r.ok(err)
		out := []string{sets[0].version}
		for _, b := range sets[0].list {
			out = append(out, strings.Join(b.required, ","))
		}
		return out
	}
	sweep()
	r.advance(24 * 3_600_000)
	sweep()
	equal(t, "buckets", names(), []string{"3", ""})
	_, err := r.RevokeLease(r.ctx, flowfabric.RevokeLeaseArgs{ExecutionID: id, Reason: "r", RevokedBy: "operator"})
	r.ok(err)
	equal(t, "buckets", len(names()), 3)
	equal(t, "claimed", r.claim(1, "a", "ns", "", "i"), []flowfabric.ExecutionID{kept})
}
