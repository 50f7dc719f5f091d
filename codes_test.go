package flowfabric

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestCodesAreTheTable: docs/error-codes.md is the only list of codes, and
// codes.go says the same.
func TestCodesAreTheTable(t *testing.T) {
	doc, err := os.ReadFile("docs/error-codes.md")
	if err != nil {
		t.Fatal(err)
	}
	left := Codes()
	for line := range strings.Lines(string(doc)) {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(line, "|")
		code := Code(strings.Trim(strings.TrimSpace(cells[1]), "`"))
		info, ok := left[code]
		if !ok {
			t.Errorf("%s is in the table and not in the code, or twice in the table", code)
			continue
		}
		delete(left, code)
		status := "-"
		if info.Status != 0 {
			status = strconv.Itoa(info.Status)
		}
		if got := strings.TrimSpace(cells[2]); got != string(info.Class) {
			t.Errorf("%s: class %s in the table, %s in the code", code, got, info.Class)
		}
		if got := strings.TrimSpace(cells[3]); got != status {
			t.Errorf("%s: status %s in the table, %s in the code", code, got, status)
		}
		if got := strings.TrimSpace(cells[4]) == "yes"; got != info.Retryable {
			t.Errorf("%s: retryable %v in the table, %v in the code", code, got, info.Retryable)
		}
	}
	for code := range left {
		t.Errorf("%s is in the code and not in the table", code)
	}
}

func TestErrorsCompareByCodeAndClass(t *testing.T) {
	err := errors.Join(errors.New("context"), NewError(CodeStaleLease, "epoch %d", 3).With("lease_epoch", 3))
	if !errors.Is(err, ErrStaleLease) || !errors.Is(err, ClassStaleOwner) || !IsStaleOwner(err) {
		t.Errorf("%v is not what it is", err)
	}
	if errors.Is(err, ErrLeaseExpired) || errors.Is(err, ClassConflict) || IsNotFound(err) || IsRetryable(err) {
		t.Errorf("%v is what it is not", err)
	}
	if e := NewError("no_such_code", "x"); e.Code != CodeInternal || e.Class != ClassBug {
		t.Errorf("an unknown code became %s of class %s", e.Code, e.Class)
	}
}
