package sqlstore

import (
	"strconv"

	"github.com/flowfabric/flowfabric"
)

// eventLog holds the sequence numbers of the feeds. It belongs to the writer;
// readers see copies taken after commits.
type eventLog struct {
	on    map[flowfabric.Feed]bool
	feeds [5]feedLog // by feed number
}

// headChange is a new head of one partition of a feed, or what was trimmed of it.
type headChange struct {
	feed    int
	part    uint16
	seq     uint64
	pos     int64 // of the event that is the new head
	trimmed bool
}

type feedLog struct {
	lastPos int64
	seqs    map[uint16]uint64
	trimmed map[uint16]uint64 // highest seq that is physically gone
	saved   int64             // pos up to which seqs are in feed_heads
}

func newEventLog(on []flowfabric.Feed) *eventLog {
	l := &eventLog{on: map[flowfabric.Feed]bool{flowfabric.FeedCompletions: true}}
	for _, f := range on {
		l.on[f] = true
	}
	for i := range l.feeds {
		l.feeds[i] = feedLog{seqs: make(map[uint16]uint64), trimmed: make(map[uint16]uint64)}
	}
	return l
}

var (
	qSelectHeads   = &Query{`select feed, part, seq, trimmed from feed_heads`}
	qSelectMarks   = &Query{`select feed, upto from feed_marks`}
	qSelectLogTail = &Query{`select pos, part, seq from events where feed = ? and pos > ? order by pos`}
	qUpsertHead    = &Query{`insert into feed_heads (feed, part, seq, trimmed) values (?, ?, ?, ?)
		on conflict (feed, part) do update set seq = excluded.seq, trimmed = excluded.trimmed`}
	qUpsertMark = &Query{`insert into feed_marks (feed, upto) values (?, ?) on conflict (feed) do update set upto = excluded.upto`}
)

// event appends one event to its feed, unless the feed is switched off.
func (tx *Tx) event(r *row, ev *flowfabric.Event) error {
	log := tx.s.log
	if !log.on[ev.Feed] {
		return nil
	}
	n := feedNumbers.of(ev.Feed)
	f := &log.feeds[n]
	part := r.key.part
	f.lastPos++
	f.seqs[part]++
	ev.Partition, ev.Seq, ev.At = part, f.seqs[part], tx.Now
	ev.EventID = strconv.Itoa(int(part)) + "-" + strconv.FormatUint(ev.Seq, 10)
	tx.dirty.heads = append(tx.dirty.heads, headChange{feed: int(n), part: part, seq: ev.Seq, pos: f.lastPos})
	prev := int64(0)
	if ev.Feed == flowfabric.FeedLeases {
		prev, r.leaseEvent = r.leaseEvent, f.lastPos
	}
	tx.scratch = appendEvent(tx.scratch[:0], ev)
	q := tx.conn.Stmt(qInsertEvent)
	q.Int(int64(n))
	q.Int(f.lastPos)
	q.Int(int64(part))
	q.Int(int64(ev.Seq))
	q.Int(int64(tx.Now))
	q.Int(prev)
	q.Blob(tx.scratch)
	return q.Exec()
}

// loadEvents restores the sequence numbers: those saved, and every event after.
func (s *Store) loadEvents(c Conn) error {
	var feeds []flowfabric.Feed
	for f := range s.log.on {
		feeds = append(feeds, f)
	}
	log := newEventLog(feeds)
	q := c.Stmt(qSelectHeads)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		n, part := q.ColInt(0), uint16(q.ColInt(1))
		if n < 1 || n >= int64(len(log.feeds)) {
			continue
		}
		log.feeds[n].seqs[part] = uint64(q.ColInt(2))
		if t := uint64(q.ColInt(3)); t > 0 {
			log.feeds[n].trimmed[part] = t
		}
	}
	q = c.Stmt(qSelectMarks)
	for {
		ok, err := q.Next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if n := q.ColInt(0); n >= 1 && n < int64(len(log.feeds)) {
			log.feeds[n].saved, log.feeds[n].lastPos = q.ColInt(1), q.ColInt(1)
		}
	}
	for n := 1; n < len(log.feeds); n++ {
		f := &log.feeds[n]
		q := c.Stmt(qSelectLogTail)
		q.Int(int64(n))
		q.Int(f.saved)
		for {
			ok, err := q.Next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			f.lastPos = q.ColInt(0)
			f.seqs[uint16(q.ColInt(1))] = uint64(q.ColInt(2))
		}
	}
	s.log = log
	s.publishHeads()
	return nil
}

// saveHeads writes the sequence numbers, so that a start need not read the log.
func (tx *Tx) saveHeads() error {
	for n := 1; n < len(tx.s.log.feeds); n++ {
		f := &tx.s.log.feeds[n]
		if f.lastPos == f.saved {
			continue
		}
		for part, seq := range f.seqs {
			q := tx.conn.Stmt(qUpsertHead)
			q.Int(int64(n))
			q.Int(int64(part))
			q.Int(int64(seq))
			q.Int(int64(f.trimmed[part]))
			if err := q.Exec(); err != nil {
				return err
			}
		}
		q := tx.conn.Stmt(qUpsertMark)
		q.Int(int64(n))
		q.Int(f.lastPos)
		if err := q.Exec(); err != nil {
			return err
		}
		f.saved = f.lastPos
	}
	return nil
}
