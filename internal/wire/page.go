package wire

import (
	"encoding/base64"
	"hash/fnv"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// Page is one page of a list. Only a null next_cursor ends the list; a page may
// be short or empty before. (Specification 08, section 2.2.)
type Page[T any] struct {
	Items      []T     `json:"items" doc:"The rows, possibly none."`
	NextCursor *string `json:"next_cursor" doc:"Where to go on; null at the end of the list."`
}

// NewPage makes a page; the empty cursor is the end.
func NewPage[T any](items []T, nextCursor string) Page[T] {
	return Page[T]{Items: nonNil(items), NextCursor: opt(nextCursor)}
}

// MaxCursorBytes is the longest cursor of a list.
const MaxCursorBytes = 512

// The lists, as their cursors name them.
const (
	ListExecutions    = "executions"
	ListAttempts      = "attempts"
	ListLeaseHistory  = "lease-history"
	ListWorkers       = "workers"
	ListWorkerLeases  = "worker-leases"
	ListExpiredLeases = "expired-leases"
	ListLanes         = "lanes"
	ListSuspended     = "suspended"
	ListWaitpoints    = "waitpoints"
	ListSignals       = "signals"
)

// EncodeCursor makes the cursor that goes on behind position in a list. scope is
// what the list is of, such as an execution id, and query the request's
// parameters, whose filters the cursor is bound to.
func EncodeCursor(list, scope string, query url.Values, position string) string {
	text := list + "\n" + filterDigest(scope, query) + "\n" + position
	return "1" + base64.RawURLEncoding.EncodeToString([]byte(text))
}

// DecodeCursor returns the position of a cursor: "" for the empty cursor, else
// invalid_cursor when it does not decode, belongs to another list or scope, or
// was made under other filters.
func DecodeCursor(list, scope string, query url.Values, cursor string) (position string, err error) {
	if cursor == "" {
		return "", nil
	}
	if len(cursor) > MaxCursorBytes || cursor[0] != '1' {
		return "", invalidCursor("malformed")
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(cursor[1:])
	if err != nil || base64.RawURLEncoding.EncodedLen(len(text)) != len(cursor)-1 { // the decoder passes over line ends
		return "", invalidCursor("malformed")
	}
	name, rest, ok := strings.Cut(string(text), "\n")
	if !ok {
		return "", invalidCursor("malformed")
	}
	digest, position, ok := strings.Cut(rest, "\n")
	switch {
	case !ok || position == "":
		return "", invalidCursor("malformed")
	case name != list:
		return "", invalidCursor("wrong_list")
	case digest != filterDigest(scope, query):
		return "", invalidCursor("wrong_filters")
	}
	return position, nil
}

// filterDigest is over everything that selects rows: all parameters but cursor,
// limit and those that bound the work of one call.
func filterDigest(scope string, query url.Values) string {
	keys := make([]string, 0, len(query))
	for k := range query {
		switch k {
		case "cursor", "limit", "max_partitions_per_call":
		default:
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	h := fnv.New64a()
	h.Write([]byte(scope))
	for _, k := range keys {
		values := slices.Clone(query[k])
		slices.Sort(values)
		for _, v := range slices.Compact(values) {
			h.Write([]byte{0})
			h.Write([]byte(k))
			h.Write([]byte{1})
			h.Write([]byte(v))
		}
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

func invalidCursor(detail string) error {
	return flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is not one of this list (%s)", detail).
		With("field", "cursor").With("detail", detail)
}

// QueryInt reads an optional integer parameter within min..max. Absent gives 0
// and false; anything else is invalid_input, never clamped.
func QueryInt(query url.Values, name string, min, max int64) (n int64, given bool, err error) {
	values, ok := query[name]
	if !ok {
		return 0, false, nil
	}
	if len(values) != 1 {
		return 0, false, flowfabric.InvalidInput(name, "is given more than once")
	}
	n, err = strconv.ParseInt(values[0], 10, 64)
	if err != nil || strings.HasPrefix(values[0], "+") {
		return 0, false, flowfabric.InvalidInput(name, "is not an integer")
	}
	if n < min || n > max {
		return 0, false, flowfabric.InvalidInput(name, "is %d, must be %d..%d", n, min, max)
	}
	return n, true, nil
}

// QueryLimit reads the parameter limit within 1..max; absent gives 0, the
// contract's "default".
func QueryLimit(query url.Values, max int64) (int, error) {
	n, _, err := QueryInt(query, "limit", 1, max)
	return int(n), err
}

// QueryBool reads an optional boolean parameter.
func QueryBool(query url.Values, name string, absent bool) (bool, error) {
	text, err := QueryText(query, name)
	switch {
	case err != nil:
		return false, err
	case text == "":
		return absent, nil
	case text == "true" || text == "1":
		return true, nil
	case text == "false" || text == "0":
		return false, nil
	}
	return false, flowfabric.InvalidInput(name, "must be true or false")
}

// QueryText reads an optional parameter that may be given once.
func QueryText(query url.Values, name string) (string, error) {
	values := query[name]
	switch len(values) {
	case 0:
		return "", nil
	case 1:
		return values[0], nil
	}
	return "", flowfabric.InvalidInput(name, "is given more than once")
}

// QueryFilter is QueryText for what selects rows: a value that is given is not
// empty. Were it taken for "none", a caller with an unset variable would be shown
// everything.
func QueryFilter(query url.Values, name string) (string, error) {
	text, err := QueryText(query, name)
	if err == nil && text == "" && query.Has(name) {
		err = flowfabric.InvalidInput(name, "must not be empty; absent is any").With("reason", "empty")
	}
	return text, err
}

// queryTags reads the repeatable parameter tag=key:value.
func queryTags(query url.Values) (map[string]string, error) {
	if len(query["tag"]) == 0 {
		return nil, nil
	}
	tags := make(map[string]string, len(query["tag"]))
	for _, pair := range query["tag"] {
		key, value, ok := strings.Cut(pair, ":")
		if !ok || key == "" {
			return nil, flowfabric.InvalidInput("tag", "must be key:value")
		}
		if old, dup := tags[key]; dup && old != value {
			return nil, flowfabric.InvalidInput("tag", "names the key %q twice", key)
		}
		tags[key] = value
	}
	return tags, nil
}

func setTags(query url.Values, tags map[string]string) {
	for k, v := range tags {
		query.Add("tag", k+":"+v)
	}
	slices.Sort(query["tag"])
}

func setText[T ~string](query url.Values, name string, v T) {
	if v != "" {
		query.Set(name, string(v))
	}
}

func setPartition(query url.Values, p *uint16) {
	if p != nil {
		query.Set("partition", strconv.Itoa(int(*p)))
	}
}

func setInt[T ~int | ~int64 | ~uint64 | ~uint32](query url.Values, name string, v T) {
	if v != 0 {
		query.Set(name, strconv.FormatInt(int64(v), 10))
	}
}
