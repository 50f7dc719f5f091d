package sqlstore

import (
	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

// rowKey is an execution's identifier in binary.
type rowKey struct {
	part uint16
	uuid [16]byte
}

func keyOf(id flowfabric.ExecutionID) rowKey {
	k := rowKey{part: id.Partition()}
	if len(id) >= 36 {
		k.uuid, _ = parseUUID(string(id[len(id)-36:]))
	}
	return k
}

// idRank orders partitions as the text of their identifiers does: "{fp:10}:"
// comes before "{fp:1}:", since "}" is greater than any digit.
func idRank(part uint16) int64 {
	var digits [5]int64
	n := 0
	for p := int64(part); ; p /= 10 {
		digits[n] = p % 10
		n++
		if p < 10 {
			break
		}
	}
	rank := int64(0)
	for i := range 5 {
		d := int64(10)
		if i < n {
			d = digits[n-1-i]
		}
		rank = rank*11 + d
	}
	return rank
}

// partOfRank is the inverse of idRank.
func partOfRank(rank int64) uint16 {
	part := int64(0)
	for base := int64(14_641); base > 0; base /= 11 {
		d := rank / base % 11
		if d == 10 {
			break
		}
		part = part*10 + d
	}
	return uint16(part)
}

// row is an execution in memory: its state, and what is stored about it.
type row struct {
	xid    int64
	key    rowKey
	bucket *bucket
	st     *rules.State

	// As stored in the columns.
	state   flowfabric.PublicState
	place   rules.Placement
	leased  bool // counts against the lane's max_concurrency
	counted bool // the lease was given by the scheduler, not directly

	leaseEvent int64 // pos of the last lease event, 0 for none
	hasTags    bool
	hasPolicy  bool
	hasWait    bool  // as read: the execution has had a waitpoint or a suspension
	openAt     int64 // as stored in the open suspension's index, 0 for none
	moved      moved
}

// cache keeps the rows that transitions are likely to need next. It belongs to
// the writer.
type cache struct {
	rows  map[rowKey]*row
	limit int
}

func newCache(limit int) *cache { return &cache{rows: make(map[rowKey]*row), limit: limit} }

func (c *cache) get(k rowKey) *row { return c.rows[k] }

func (c *cache) put(r *row) {
	if len(c.rows) >= c.limit {
		drop := c.limit / 8
		for k := range c.rows {
			if drop--; drop < 0 {
				break
			}
			delete(c.rows, k)
		}
	}
	c.rows[r.key] = r
}

func (c *cache) drop(k rowKey) { delete(c.rows, k) }

func (c *cache) clear() { clear(c.rows) }
