package sqlstore

import (
	"path/filepath"
	"strings"
	"testing"

	zs "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// The look-ups of a delivery cost the same however many signals the execution has
// recorded and however many waitpoints it has closed: none of them walks all rows
// of the execution. (Specification 03, section 7.)
func TestWaitLookUpsUseTheirIndex(t *testing.T) {
	c, err := zs.OpenConn(filepath.Join(t.TempDir(), "plan.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	schema, err := migrations.ReadFile("migrations/0003_waiting.sql")
	if err != nil {
		t.Fatal(err)
	}
	if err := sqlitex.ExecuteScript(c, string(schema), nil); err != nil {
		t.Fatal(err)
	}
	for _, q := range []*Query{qSelectSignal, qSelectSeq, qSelectPayload, qSelectDedup, qListBuffered, qListOpen, qSelectWaitpoint, qSelectReplay, qSelectSuspension} {
		plan := ""
		err := sqlitex.ExecuteTransient(c, "explain query plan "+q.SQL, &sqlitex.ExecOptions{
			Args:       make([]any, strings.Count(q.SQL, "?")),
			ResultFunc: func(s *zs.Stmt) error { plan += s.ColumnText(3) + "\n"; return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(plan, "SCAN") || strings.Contains(plan, "(xid=?)\n") && !strings.Contains(plan, "signals_buffered (xid=?)") {
			t.Errorf("%s\nis answered by\n%s", q.SQL, plan)
		}
	}
}
