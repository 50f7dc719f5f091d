package rules

import (
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// CompareExpired orders expired leases by the instant they lapsed, then by execution.
func CompareExpired(t1 flowfabric.Millis, id1 flowfabric.ExecutionID, t2 flowfabric.Millis, id2 flowfabric.ExecutionID) int {
	if t1 != t2 {
		if t1 < t2 {
			return -1
		}
		return 1
	}
	return strings.Compare(string(id1), string(id2))
}

// ExpiredCursor is a position in a listing of expired leases: a range of
// partitions and the last entry of it that was returned.
type ExpiredCursor struct {
	First, Span int
	At          flowfabric.Millis
	ID          flowfabric.ExecutionID
}

// String is the cursor as clients see it.
func (c ExpiredCursor) String() string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "x1 %d %d %d %s", c.First, c.Span, c.At, c.ID))
}

// ParseExpiredCursor reads what String wrote.
func ParseExpiredCursor(s string) (c ExpiredCursor, err error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) > 200 {
		return c, fmt.Errorf("malformed cursor")
	}
	var id string
	n, err := fmt.Sscanf(string(raw), "x1 %d %d %d %s", &c.First, &c.Span, &c.At, &id)
	if n == 3 {
		err = nil
	}
	if err == nil && id != "" {
		c.ID, err = flowfabric.ParseExecutionID(id)
	}
	if err == nil && (c.First < 0 || c.Span < 1 || c.Span > 65535) {
		err = fmt.Errorf("malformed cursor")
	}
	return c, err
}
