package demo

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flowfabric/flowfabric"
)

// Report is the outcome of a whole demo run.
type Report struct {
	Root string `json:"root"`
	// Files is how many files were submitted, Results how many of them have a
	// result that equals a direct computation.
	Files   int `json:"files"`
	Results int `json:"results"`
	// Lost counts files without a completed execution. Duplicated counts
	// completed executions over one a file, plus completion events over one an
	// execution.
	Lost       int `json:"lost"`
	Duplicated int `json:"duplicated"`
	// Wrong tells of results that differ from a direct computation, Failed of
	// executions that ended otherwise than completed.
	Wrong  []string `json:"wrong,omitempty"`
	Failed []string `json:"failed,omitempty"`
	// Unreadable tells of files that were not submitted.
	Unreadable []string `json:"unreadable,omitempty"`

	Languages []LanguageTotal `json:"languages"`
	Workers   []WorkerTotal   `json:"workers"`
	Reclaimed []Reclaimed     `json:"reclaimed"`
	// Kept is how many files were complete before this start.
	Kept int `json:"kept"`
	// Duration is the time from the submission to the last completion.
	Duration time.Duration `json:"duration_ns"`
}

// LanguageTotal sums the facts of one language.
type LanguageTotal struct {
	Language string `json:"language"`
	Files    int    `json:"files"`
	Bytes    int64  `json:"bytes"`
	Lines    int64  `json:"lines"`
	Words    int64  `json:"words"`
}

// WorkerTotal says what became of one worker process.
type WorkerTotal struct {
	Instance  flowfabric.WorkerInstanceID `json:"worker_instance_id"`
	PID       int                         `json:"pid,omitempty"`
	Completed int                         `json:"completed"`
	// Fate tells how the process ended.
	Fate string `json:"fate"`
}

// Reclaimed is one execution that was taken over from a dead worker.
type Reclaimed struct {
	Path string                      `json:"path"`
	From flowfabric.WorkerInstanceID `json:"from"`
	To   flowfabric.WorkerInstanceID `json:"to"`
	// Attempt is the index of the new attempt.
	Attempt uint32 `json:"attempt_index"`
}

// Line is the demo's verdict on one line.
func (r *Report) Line() string {
	return fmt.Sprintf("files %d, results %d, lost %d, duplicated %d", r.Files, r.Results, r.Lost, r.Duplicated)
}

// OK reports that every file has exactly one, correct result.
func (r *Report) OK() bool {
	return r.Files > 0 && r.Files == r.Results && r.Lost == 0 && r.Duplicated == 0 && len(r.Wrong) == 0 && len(r.Failed) == 0
}

// PerSecond is how many files were completed a second in this start.
func (r *Report) PerSecond() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.Results-r.Kept) / r.Duration.Seconds()
}

// totals sums facts by language, most bytes first, with a last line for all.
func totals(facts map[string]Facts) []LanguageTotal {
	by := map[string]LanguageTotal{}
	all := LanguageTotal{Language: "all"}
	for _, f := range facts {
		t := by[f.Language]
		t.Language = f.Language
		t.add(f)
		by[f.Language] = t
		all.add(f)
	}
	list := slices.SortedFunc(maps.Values(by), func(a, b LanguageTotal) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Language, b.Language))
	})
	return append(list, all)
}

func (t *LanguageTotal) add(f Facts) {
	t.Files++
	t.Bytes += f.Bytes
	t.Lines += f.Lines
	t.Words += f.Words
}
