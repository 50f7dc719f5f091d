package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
)

// shownReclaims is how many reclaimed executions a report lists by name.
const shownReclaims = 12

// Print writes the report as tables for a person. Colours appear on a terminal
// only.
func (r *Report) Print(w io.Writer) error {
	style := lipgloss.NewRenderer(w)
	var b strings.Builder
	b.WriteString("\n")
	b.WriteString(render(style, []string{"language", "files", "bytes", "lines", "words"}, languageRows(r.Languages), true))
	b.WriteString("\n\n")
	b.WriteString(render(style, []string{"worker", "completed", "pid", "fate"}, workerRows(r.Workers), false))
	b.WriteString("\n\n")
	r.printReclaimed(&b, style)
	r.printProblems(&b)
	fmt.Fprintf(&b, "%s in %s, %.0f files/s%s\n", plural(r.Results-r.Kept, "file"), r.Duration.Round(10*time.Millisecond), r.PerSecond(), r.kept())
	fmt.Fprintf(&b, "checked: %d of %d results equal a direct computation\n", r.Results, r.Files)
	colour := lipgloss.Color("2")
	if !r.OK() {
		colour = lipgloss.Color("1")
	}
	b.WriteString(style.NewStyle().Bold(true).Foreground(colour).Render(r.Line()) + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) kept() string {
	if r.Kept == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d more were complete before this start)", r.Kept)
}

func (r *Report) printReclaimed(b *strings.Builder, style *lipgloss.Renderer) {
	if len(r.Reclaimed) == 0 {
		b.WriteString("nothing was reclaimed\n")
		return
	}
	rows := make([][]string, 0, len(r.Reclaimed))
	for i, c := range r.Reclaimed {
		if i == shownReclaims {
			rows = append(rows, []string{fmt.Sprintf("… and %d more", len(r.Reclaimed)-i), "", "", ""})
			break
		}
		rows = append(rows, []string{printable(c.Path), string(c.From), string(c.To), strconv.Itoa(int(c.Attempt))})
	}
	b.WriteString(render(style, []string{"reclaimed", "from", "to", "attempt"}, rows, false))
	b.WriteString("\n\n")
}

func (r *Report) printProblems(b *strings.Builder) {
	for _, list := range []struct {
		what  string
		items []string
	}{{"passed over", r.Unreadable}, {"failed", r.Failed}, {"wrong", r.Wrong}} {
		for i, item := range list.items {
			if i == shownReclaims {
				fmt.Fprintf(b, "%s: … and %d more\n", list.what, len(list.items)-i)
				break
			}
			fmt.Fprintf(b, "%s: %s\n", list.what, printable(item))
		}
	}
}

func languageRows(totals []LanguageTotal) [][]string {
	rows := make([][]string, 0, len(totals))
	for _, t := range totals {
		rows = append(rows, []string{t.Language, thousands(int64(t.Files)), thousands(t.Bytes), thousands(t.Lines), thousands(t.Words)})
	}
	return rows
}

func workerRows(workers []WorkerTotal) [][]string {
	rows := make([][]string, 0, len(workers))
	for _, w := range workers {
		pid := "-"
		if w.PID != 0 {
			pid = strconv.Itoa(w.PID)
		}
		rows = append(rows, []string{string(w.Instance), thousands(int64(w.Completed)), pid, w.Fate})
	}
	return rows
}

// render draws a table: first column to the left, others to the right, or, for
// words, all to the left. With a total the last row stands out.
func render(style *lipgloss.Renderer, headers []string, rows [][]string, total bool) string {
	base := style.NewStyle().Padding(0, 1)
	head := base.Bold(true)
	right := func(s lipgloss.Style, col int) lipgloss.Style {
		if col > 0 && (total || headers[col] == "completed" || headers[col] == "pid" || headers[col] == "attempt") {
			return s.Align(lipgloss.Right)
		}
		return s
	}
	return table.New().
		Border(lipgloss.RoundedBorder()).BorderStyle(style.NewStyle().Faint(true)).
		Headers(headers...).Rows(rows...).
		StyleFunc(func(row, col int) lipgloss.Style {
			if row == table.HeaderRow || (total && row == len(rows)-1) {
				return right(head, col)
			}
			return right(base, col)
		}).Render()
}

// thousands writes n in groups of three digits: 12,345,678.
func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func plural(n int, noun string) string {
	ending := "s"
	if n == 1 {
		ending = ""
	} else if strings.HasSuffix(noun, "s") {
		ending = "es"
	}
	return thousands(int64(n)) + " " + noun + ending
}

// printable quotes a text that would disturb a terminal.
func printable(s string) string {
	q := strconv.Quote(s)
	if q[1:len(q)-1] == s || !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '�' }) {
		return s
	}
	return q
}
