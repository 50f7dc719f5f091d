package api

import (
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/flowfabric/flowfabric"
)

// cursorKind names the list a cursor belongs to.
type cursorKind byte

// The lists with cursors.
const (
	cursorExecutions    cursorKind = 'e'
	cursorAttempts      cursorKind = 'a'
	cursorLeaseHistory  cursorKind = 'h'
	cursorWorkers       cursorKind = 'w'
	cursorWorkerLeases  cursorKind = 'l'
	cursorExpiredLeases cursorKind = 'x'
	cursorLanes         cursorKind = 'n'
)

const (
	cursorVersion  = 1
	cursorHead     = 1 + 1 + 8 // version, list, digest of the filters
	cursorTail     = 4         // checksum
	maxCursorBytes = 512
)

// A cursor is, in unpadded base64url: version, list, digest of the filters,
// position, checksum. The checksum tells a mangled cursor; it is no secret, and
// a forged cursor shows its maker nothing that another page would not.

// encodeCursor returns the cursor of a position in a list with these filters.
func encodeCursor(kind cursorKind, filters uint64, position []byte) string {
	b := make([]byte, 0, cursorHead+len(position)+cursorTail)
	b = append(b, cursorVersion, byte(kind))
	b = binary.BigEndian.AppendUint64(b, filters)
	b = append(b, position...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor returns the position, or invalid_cursor when the text is no
// cursor, is of another list, or was made with other filters.
func decodeCursor(s string, kind cursorKind, filters uint64) ([]byte, error) {
	if len(s) > maxCursorBytes {
		return nil, invalidCursor("malformed")
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < cursorHead+cursorTail || b[0] != cursorVersion {
		return nil, invalidCursor("malformed")
	}
	body, sum := b[:len(b)-cursorTail], binary.BigEndian.Uint32(b[len(b)-cursorTail:])
	if crc32.ChecksumIEEE(body) != sum {
		return nil, invalidCursor("malformed")
	}
	if cursorKind(body[1]) != kind {
		return nil, invalidCursor("wrong_list")
	}
	if binary.BigEndian.Uint64(body[2:cursorHead]) != filters {
		return nil, invalidCursor("wrong_filters")
	}
	return body[cursorHead:], nil
}

func invalidCursor(reason string) *flowfabric.Error {
	return flowfabric.NewError(flowfabric.CodeInvalidCursor, "the cursor is %s", strings.ReplaceAll(reason, "_", " ")).With("reason", reason)
}

// filterDigest folds a list's filters into one number: FNV-1a 64 over the parts,
// each with its length, so that no two sequences of parts run together.
type filterDigest uint64

func newFilterDigest() filterDigest { return 14695981039346656037 }

func (d filterDigest) byte(b byte) filterDigest { return (d ^ filterDigest(b)) * 1099511628211 }

func (d filterDigest) add(part string) filterDigest {
	for n := len(part); ; n >>= 7 {
		if n < 0x80 {
			d = d.byte(byte(n))
			break
		}
		d = d.byte(byte(n) | 0x80)
	}
	for i := 0; i < len(part); i++ {
		d = d.byte(part[i])
	}
	return d
}

// set adds parts whose order does not matter.
func (d filterDigest) set(parts []string) filterDigest {
	parts = slices.Clone(parts)
	slices.Sort(parts)
	for _, part := range slices.Compact(parts) {
		d = d.add(part)
	}
	return d.byte(0xFF)
}

// executionPosition is a place in the listing of executions: behind After on
// Partition, or at the partition's beginning when After is empty.
type executionPosition struct {
	Partition uint16
	After     flowfabric.ExecutionID
}

func (p executionPosition) bytes() []byte {
	return append(binary.BigEndian.AppendUint16(nil, p.Partition), p.After...)
}

func parseExecutionPosition(b []byte) (executionPosition, error) {
	if len(b) < 2 {
		return executionPosition{}, invalidCursor("malformed")
	}
	p := executionPosition{Partition: binary.BigEndian.Uint16(b)}
	if len(b) == 2 {
		return p, nil
	}
	id, err := flowfabric.ParseExecutionID(string(b[2:]))
	if err != nil {
		return executionPosition{}, invalidCursor("malformed")
	}
	p.After = id
	return p, nil
}

// numberPosition is a place told by one number.
func numberPosition(n uint64) []byte { return binary.AppendUvarint(nil, n) }

func parseNumberPosition(b []byte) (uint64, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || size != len(b) {
		return 0, invalidCursor("malformed")
	}
	return n, nil
}

// pairPosition is a place told by two texts, the first without a zero byte.
func pairPosition(first, second string) []byte { return []byte(first + "\x00" + second) }

func parsePairPosition(b []byte) (first, second string, err error) {
	first, second, ok := strings.Cut(string(b), "\x00")
	if !ok {
		return "", "", invalidCursor("malformed")
	}
	return first, second, nil
}
