package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/lipgloss/table"
	"github.com/flowfabric/flowfabric"
)

// printer writes results: aligned tables for people, JSON for programs. Colours
// appear on a terminal only.
type printer struct {
	w      io.Writer
	format outputFormat
	now    time.Time
	style  *lipgloss.Renderer
}

func (c *cli) printer() *printer {
	return newPrinter(c.out, c.options.output, c.now())
}

func newPrinter(w io.Writer, format outputFormat, now time.Time) *printer {
	return &printer{w: w, format: format, now: now, style: lipgloss.NewRenderer(w)}
}

// wantsJSON reports whether a program reads the output.
func (p *printer) wantsJSON() bool { return p.format == outputJSON }

// json prints v as one indented document.
func (p *printer) json(v any) error {
	enc := json.NewEncoder(p.w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// jsonLine prints v on one line, for streams of documents.
func (p *printer) jsonLine(v any) error {
	enc := json.NewEncoder(p.w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// line prints a sentence.
func (p *printer) line(format string, args ...any) error {
	_, err := fmt.Fprintf(p.w, format+"\n", args...)
	return err
}

// table prints rows under headers, aligned, without borders. Without rows it
// prints the sentence instead.
func (p *printer) table(empty string, headers []string, rows [][]string) error {
	if len(rows) == 0 {
		return p.line("%s", p.faint(empty))
	}
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
	}
	header := p.style.NewStyle().Bold(true)
	plain := p.style.NewStyle()
	last := len(headers) - 1
	t := table.New().Border(lipgloss.HiddenBorder()).
		BorderTop(false).BorderBottom(false).BorderLeft(false).BorderRight(false).BorderHeader(false).BorderColumn(false).
		Headers(headers...).Rows(rows...).
		StyleFunc(func(row, col int) lipgloss.Style {
			s := plain
			if row == table.HeaderRow {
				s = header
			}
			if col == last {
				return s
			}
			return s.PaddingRight(2)
		})
	return p.block(t.Render())
}

// field is one line of details; an empty value leaves the line out.
type field struct{ name, value string }

// details prints fields as aligned lines.
func (p *printer) details(fields []field) error {
	width := 0
	for _, f := range fields {
		if f.value != "" {
			width = max(width, lipgloss.Width(f.name))
		}
	}
	var b strings.Builder
	for _, f := range fields {
		if f.value == "" {
			continue
		}
		name := p.faint(f.name) + strings.Repeat(" ", width-lipgloss.Width(f.name))
		b.WriteString(name + "  " + f.value + "\n")
	}
	return p.block(b.String())
}

// block prints lines without the blanks a layout leaves at their ends.
func (p *printer) block(s string) error {
	for line := range strings.SplitSeq(strings.TrimRight(s, "\n"), "\n") {
		if err := p.line("%s", strings.TrimRight(line, " ")); err != nil {
			return err
		}
	}
	return nil
}

func (p *printer) color(c, s string) string {
	return p.style.NewStyle().Foreground(lipgloss.Color(c)).Render(s)
}

func (p *printer) bold(s string) string  { return p.style.NewStyle().Bold(true).Render(s) }
func (p *printer) faint(s string) string { return p.style.NewStyle().Faint(true).Render(s) }
func (p *printer) good(s string) string  { return p.color("2", s) }
func (p *printer) warn(s string) string  { return p.color("3", s) }
func (p *printer) bad(s string) string   { return p.color("1", s) }
func (p *printer) busy(s string) string  { return p.color("6", s) }

// state prints a public state in its colour.
func (p *printer) state(s flowfabric.PublicState) string {
	switch s {
	case flowfabric.PublicCompleted:
		return p.good(string(s))
	case flowfabric.PublicActive:
		return p.busy(string(s))
	case flowfabric.PublicFailed, flowfabric.PublicExpired:
		return p.bad(string(s))
	case flowfabric.PublicSuspended, flowfabric.PublicRateLimited, flowfabric.PublicDelayed:
		return p.warn(string(s))
	case flowfabric.PublicCancelled, flowfabric.PublicSkipped:
		return p.faint(string(s))
	}
	return string(s)
}

// laneState prints a lane's state in its colour.
func (p *printer) laneState(s flowfabric.LaneState) string {
	switch s {
	case flowfabric.LaneActive:
		return p.good(string(s))
	case flowfabric.LaneDisabled:
		return p.bad(string(s))
	}
	return p.warn(string(s))
}

// when prints an instant as people say it: "3m ago", "in 20s"; "" for none.
func (p *printer) when(t flowfabric.Millis) string {
	if t == 0 {
		return ""
	}
	d := p.now.Sub(timeOf(t))
	switch {
	case d > -time.Second && d < time.Second:
		return "now"
	case d > 0:
		return span(d) + " ago"
	}
	return "in " + span(-d)
}

// instant prints an instant with its distance from now; "" for none.
func (p *printer) instant(t flowfabric.Millis) string {
	if t == 0 {
		return ""
	}
	return timeOf(t).Format("2006-01-02 15:04:05.000") + p.faint("  ("+p.when(t)+")")
}

func timeOf(t flowfabric.Millis) time.Time { return time.UnixMilli(int64(t)) }

// span prints a duration in its largest unit, two while the first is small.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(float64(d/(100*time.Millisecond))/10, 'f', -1, 64) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d%time.Minute < time.Second && d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 10*time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d%time.Hour < time.Minute && d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d < 10*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < 2*day:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// clean makes text of unknown origin safe for a terminal, and one line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Bidi_Control, r):
			return '·'
		}
		return r
	}, s)
}

// short cuts text to n runes.
func short(s string, n int) string {
	s = clean(s)
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

// count prints a number, "" for zero.
func count[N ~int | ~int32 | ~int64 | ~uint32 | ~uint64](n N) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// tagList prints tags in key order.
func tagList(tags map[string]string) string {
	keys := make([]string, 0, len(tags))
	for k := range tags {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = k + "=" + short(tags[k], 60)
	}
	return strings.Join(parts, " ")
}

func joined[S ~string](items []S) string {
	parts := make([]string, len(items))
	for i, s := range items {
		parts[i] = clean(string(s))
	}
	return strings.Join(parts, ",")
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// cleanBlock makes text of unknown origin safe for a terminal, keeping its
// lines.
func cleanBlock(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// sizeOf prints a number of bytes.
func sizeOf(n int64) string {
	const k = 1024
	switch {
	case n < k:
		return plural(int(n), "byte", "bytes")
	case n < k*k:
		return fmt.Sprintf("%.1f KiB", float64(n)/k)
	case n < k*k*k:
		return fmt.Sprintf("%.1f MiB", float64(n)/(k*k))
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(k*k*k))
}
