package valkey

import (
	"context"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	vk "github.com/valkey-io/valkey-go"

	"github.com/flowfabric/flowfabric"
	"github.com/flowfabric/flowfabric/internal/rules"
)

const (
	// pageLife is how long the sorted members of a partition serve following
	// pages.
	pageLife = 2 * time.Second
	// maxPages bounds the partitions whose members are kept.
	maxPages = 64
	// scanCount is how many members one step of an enumeration asks for.
	scanCount = 1000
	// listChunk is how many records a filtered listing reads at once.
	listChunk = 256
)

// pageCache keeps the sorted members of partitions that somebody is leafing
// through.
type pageCache struct {
	mu   sync.Mutex
	byID map[uint16]page
	// created counts the executions that this process created on each partition:
	// what was kept before the last one is out of date.
	created []atomic.Uint32
}

type page struct {
	members []string
	until   time.Time
	created uint32
}

func newPageCache(partitions int) *pageCache {
	return &pageCache{byID: make(map[uint16]page), created: make([]atomic.Uint32, partitions)}
}

// note tells that an execution was created on the partition.
func (c *pageCache) note(part uint16) { c.created[part].Add(1) }

func (c *pageCache) find(part uint16) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.byID[part]
	if !ok || p.created != c.created[part].Load() || time.Now().After(p.until) {
		delete(c.byID, part)
		return nil
	}
	return p.members
}

func (c *pageCache) keep(part uint16, members []string, created uint32) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.byID) >= maxPages {
		for k, p := range c.byID {
			if now.After(p.until) {
				delete(c.byID, k)
			}
		}
		if len(c.byID) >= maxPages {
			clear(c.byID)
		}
	}
	c.byID[part] = page{members, now.Add(pageLife), created}
}

// members returns the UUIDs of all executions of a partition in order of their
// text. A following page may get those of up to two seconds ago.
func (s *Store) members(ctx context.Context, part uint16, following bool) ([]string, error) {
	if following {
		if list := s.pages.find(part); list != nil {
			return list, nil
		}
	}
	created := s.pages.created[part].Load()
	key := "ff:idx:" + s.tag(part) + ":due"
	var list []string
	for cursor := uint64(0); ; {
		got := s.plain(ctx, s.b.Zscan().Key(key).Cursor(cursor).Count(scanCount).Build())[0]
		if got.err != nil {
			return nil, got.err
		}
		entry, err := got.msg.AsScanEntry()
		if err != nil {
			return nil, err
		}
		for i := 0; i+1 < len(entry.Elements); i += 2 {
			list = append(list, entry.Elements[i])
		}
		if cursor = entry.Cursor; cursor == 0 {
			break
		}
	}
	sort.Strings(list)
	list = slices.Compact(list)
	if len(list) > 0 {
		s.pages.keep(part, list, created)
	}
	return list, nil
}

// row is what a listing reads of one execution.
type row struct {
	flowfabric.ExecutionSummary
	flow   flowfabric.FlowID
	tagged bool
	// gone tells that the execution has been purged meanwhile.
	gone bool
}

var rowFields = []string{"public_state", "st", "lane_id", "namespace", "priority", "created_at", "flow_id", "flags"}

// readRows reads what a listing shows, but for the kind.
func (s *Store) readRows(ctx context.Context, op string, ids []flowfabric.ExecutionID) ([]row, error) {
	cmds := make([]vk.Completed, len(ids))
	for i, id := range ids {
		cmds[i] = s.b.Hmget().Key(execKey(id, "core")).Field(rowFields...).Build()
	}
	rows := make([]row, len(ids))
	var away []int // whose namespace lies in the text hash
	for i, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		list, err := got.msg.ToArray()
		if err != nil {
			return nil, err
		}
		if rows[i], err = rowOf(op, ids[i], list); err != nil {
			return nil, err
		}
		if rows[i].Namespace == inText {
			away = append(away, i)
		}
	}
	cmds = cmds[:0]
	for _, i := range away {
		cmds = append(cmds, s.b.Hget().Key(execKey(ids[i], "text")).Field("namespace").Build())
	}
	for j, got := range s.plain(ctx, cmds...) {
		if got.err != nil {
			return nil, got.err
		}
		ns, err := got.msg.ToString()
		if err != nil {
			return nil, corrupt(op, "namespace", "missing in the text hash")
		}
		rows[away[j]].Namespace = flowfabric.Namespace(ns)
	}
	return rows, nil
}

func rowOf(op string, id flowfabric.ExecutionID, list elements) (row, error) {
	r := row{ExecutionSummary: flowfabric.ExecutionSummary{ExecutionID: id}}
	state, st := list.str(0), list.str(1)
	if state == "" && st == "" && list.str(5) == "" {
		r.gone = true
		return r, nil
	}
	var err error
	if r.PublicState, err = checkState(op, state, st); err != nil {
		return r, err
	}
	d := decoder{op: op}
	r.LaneID = flowfabric.LaneID(list.str(2))
	if r.LaneID.Validate() != nil {
		d.fail("lane_id", "invalid")
	}
	if r.Namespace = flowfabric.Namespace(list.str(3)); r.Namespace == "" {
		d.fail("namespace", "missing")
	}
	if v := list.str(4); v != "" {
		r.Priority = int32(d.uint32("priority", v))
	}
	r.CreatedAt = d.ms("created_at", list.str(5))
	r.flow = flowfabric.FlowID(list.str(6))
	for _, flag := range list.str(7) {
		r.tagged = r.tagged || flag == 't'
	}
	return r, d.err
}

// readKinds fills in the kinds of rows, and drops those whose tags differ from
// the wanted ones.
func (s *Store) readKinds(ctx context.Context, op string, rows []*row, want map[string]string) error {
	keys := make([]string, 0, len(want))
	for k := range want {
		keys = append(keys, k)
	}
	cmds := make([]vk.Completed, 0, 2*len(rows))
	for _, r := range rows {
		cmds = append(cmds, s.b.Getrange().Key(execKey(r.ExecutionID, "def")).Start(0).End(kindBytes-1).Build())
		if len(keys) > 0 {
			cmds = append(cmds, s.b.Hmget().Key(execKey(r.ExecutionID, "tags")).Field(keys...).Build())
		}
	}
	answers := s.plain(ctx, cmds...)
	for _, r := range rows {
		head := answers[0]
		answers = answers[1:]
		if head.err != nil {
			return head.err
		}
		b, _ := head.msg.AsBytes()
		var err error
		switch r.Kind, err = kindOf(op, b); {
		case len(b) == 0:
			r.gone = true
		case err != nil:
			return err
		}
		if len(keys) == 0 {
			continue
		}
		tags := answers[0]
		answers = answers[1:]
		if tags.err != nil {
			return tags.err
		}
		list, err := tags.msg.ToArray()
		if err != nil {
			return err
		}
		for i, k := range keys {
			if list[i].IsNil() || elements(list).str(i) != want[k] {
				r.gone = true
			}
		}
	}
	return nil
}

// ListExecutions lists one partition in identifier order.
func (s *Store) ListExecutions(ctx context.Context, a flowfabric.ListExecutionsArgs) (res flowfabric.ListExecutionsResult, err error) {
	const op = "list_executions"
	if err := rules.ValidateListExecutions(&a, s.parts); err != nil {
		return res, err
	}
	members, err := s.members(ctx, a.Partition, a.Cursor != "")
	if err != nil {
		return res, err
	}
	if a.Cursor != "" {
		at, found := slices.BinarySearch(members, uuidOf(a.Cursor))
		if found {
			at++
		}
		members = members[at:]
	}
	most, chunk := a.Limit, a.Limit
	if filtered(&a) {
		most, chunk = flowfabric.MaxListExamined, listChunk
	}
	res.Executions = []flowfabric.ExecutionSummary{}
	prefix := s.tag(a.Partition) + ":"
	for examined := 0; len(members) > 0; {
		n := min(chunk, most-examined, len(members))
		ids := make([]flowfabric.ExecutionID, n)
		for i := range ids {
			ids[i] = flowfabric.ExecutionID(prefix + members[i])
		}
		taken, err := s.listSome(ctx, op, &a, ids, &res)
		if err != nil {
			return flowfabric.ListExecutionsResult{}, err
		}
		members = members[taken:]
		examined += taken
		if len(members) > 0 && (examined >= most || len(res.Executions) == a.Limit) {
			res.NextCursor = ids[taken-1]
			break
		}
	}
	return res, nil
}

func filtered(a *flowfabric.ListExecutionsArgs) bool {
	return a.Namespace != "" || a.Namespaces != nil || a.LaneID != "" || len(a.PublicStates) > 0 || a.Kind != "" || a.FlowID != "" || len(a.Tags) > 0
}

// listSome examines executions in order until the page is full, and returns how
// many it examined.
func (s *Store) listSome(ctx context.Context, op string, a *flowfabric.ListExecutionsArgs, ids []flowfabric.ExecutionID, res *flowfabric.ListExecutionsResult) (int, error) {
	rows, err := s.readRows(ctx, op, ids)
	if err != nil {
		return 0, err
	}
	matched := make([]*row, 0, len(rows))
	for i := range rows {
		if matches(&rows[i], a) {
			matched = append(matched, &rows[i])
		} else {
			rows[i].gone = true
		}
	}
	if err := s.readKinds(ctx, op, matched, a.Tags); err != nil {
		return 0, err
	}
	for i := range rows {
		r := &rows[i]
		if r.gone || a.Kind != "" && r.Kind != a.Kind {
			continue
		}
		res.Executions = append(res.Executions, r.ExecutionSummary)
		if len(res.Executions) == a.Limit {
			return i + 1, nil
		}
	}
	return len(rows), nil
}

// matches applies the filters that need neither kind nor tags.
func matches(r *row, a *flowfabric.ListExecutionsArgs) bool {
	switch {
	case r.gone,
		a.Namespace != "" && r.Namespace != a.Namespace,
		a.Namespaces != nil && !slices.Contains(a.Namespaces, r.Namespace),
		a.LaneID != "" && r.LaneID != a.LaneID,
		a.FlowID != "" && r.flow != a.FlowID,
		len(a.PublicStates) > 0 && !slices.Contains(a.PublicStates, r.PublicState),
		len(a.Tags) > 0 && !r.tagged:
		return false
	}
	return true
}

// listLimit is the limit of a listing, with its default.
func listLimit(limit, def, most int) (int, error) {
	if limit == 0 {
		return def, nil
	}
	if limit < 0 || limit > most {
		return 0, flowfabric.InvalidInput("limit", "is %d, must be 1..%d", limit, most)
	}
	return limit, nil
}
