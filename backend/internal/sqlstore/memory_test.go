package sqlstore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// Memory tells what the writer remembers, line by line: labels, counts, heads,
// names, registrations, grants, feeds. What may lag behind by design, the clock
// of a heartbeat, is left out.
func Memory(tx *Tx) ([]string, error) {
	s := tx.s
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for id, b := range s.buckets.byID {
		head := "none"
		if b.offered > 0 {
			k, ok, err := tx.head(b, 1)
			if err != nil {
				return nil, err
			}
			head = fmt.Sprint(k, ok)
		}
		_, labelled := s.buckets.labelled[b.lane][b]
		add("bucket %d %s %s %v members %d empty since %d offered %d labelled %t label %v head %s", id, b.lane, b.namespace, b.required,
			b.members, b.emptySince.Load(), b.offered, labelled, b.label, head)
	}
	for lane, n := range s.buckets.labelled {
		if len(n) != 0 {
			add("labelled %s %d", lane, len(n))
		}
	}
	for id, l := range s.lanes {
		add("lane %s %s %+v published %t", id, lane(l), l.SweepPending, lane(l) == published(s, id))
	}
	for id := range s.named {
		add("named %s", id)
	}
	for id, c := range s.counts {
		if *c != (laneCount{}) {
			add("count %s %v published %t", id, *c, s.pub.counts[id] == *c)
		}
	}
	for k, w := range s.registry.workers {
		r := w.reg
		r.LastHeartbeatAt, r.ExpiresAt = 0, 0
		add("worker %v %+v", k, r)
	}
	for k, g := range s.grants.byKey {
		add("grant %v %+v", k, g)
	}
	for lane, n := range s.grants.lanes {
		if n != 0 {
			add("granted %s %d", lane, n)
		}
	}
	for n := range s.log.feeds {
		f := &s.log.feeds[n]
		add("feed %d at %d published %d", n, f.lastPos, s.pub.heads[n].lastPos)
		for p, seq := range f.seqs {
			add("feed %d part %d seq %d trimmed %d published %d %d", n, p, seq, f.trimmed[p], s.pub.heads[n].seqs[p], s.pub.heads[n].trimmed[p])
		}
	}
	for kid, secret := range s.ring.Secrets {
		add("key %s current %t secret %s until %d", kid, kid == s.ring.Current, secret, s.ring.ExpiresAt[kid])
	}
	waits, err := rememberedWaits(tx)
	if err != nil {
		return nil, err
	}
	out = append(out, waits...)
	slices.Sort(out)
	return out, nil
}

var qEveryRow = &Query{`select part, uuid from executions`}

// rememberedWaits tells what every execution waits on, out of the cache where it
// is there.
func rememberedWaits(tx *Tx) (out []string, err error) {
	q := tx.conn.Stmt(qEveryRow)
	var keys []rowKey
	for {
		ok, err := q.Next()
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		key := rowKey{part: uint16(q.ColInt(0))}
		copy(key.uuid[:], q.ColBlob(1, nil))
		keys = append(keys, key)
	}
	for _, key := range keys {
		r, err := tx.loadKey(key)
		if flowfabric.CodeOf(err) == flowfabric.CodeCorruptRecord {
			continue
		}
		if err != nil {
			return nil, err
		}
		if r.st.Wait != nil {
			out = append(out, fmt.Sprintf("wait %s open at %d %s", executionID(key), r.openAt, shownWait(r.st.Wait)))
		}
	}
	return out, nil
}

func shownWait(w *rules.Wait) string {
	s := fmt.Sprintf("last %d", w.LastSeq)
	if x := w.Suspension; x != nil {
		doc, _ := json.Marshal(x.Suspension)
		s += fmt.Sprintf(" suspension %s lease %s nodes %q", doc, x.LeaseID, x.Nodes)
	}
	for _, p := range w.Open {
		s += fmt.Sprintf(" waitpoint %+v token %s", p, p.Token.Reveal())
	}
	for _, g := range w.Buffered {
		s += fmt.Sprintf(" buffered %+v", g)
	}
	return s
}

func lane(l *laneRecord) string { return strings.ReplaceAll(fmt.Sprintf("%+v", l.Lane), "\n", " ") }

func published(s *Store, id any) string {
	for k, l := range s.pub.lanes {
		if any(k) == id {
			return lane(&l)
		}
	}
	return "not published"
}
