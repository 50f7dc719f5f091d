package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/lipgloss"
)

// How often a bar is drawn on a terminal, and how often a line is written
// elsewhere.
const (
	barFrame    = 60 * time.Millisecond
	barLine     = time.Second
	barCells    = 32
	barClear    = "\r\x1b[K"
	barFull     = "█"
	barEmpty    = "░"
	barLabelled = "%s %s %3d %%  %d of %d  %s"
)

// bar shows how far counted work is: a bar that redraws itself on a terminal,
// a plain line every second elsewhere. Its methods may be called from many
// goroutines.
type bar struct {
	w        io.Writer
	terminal bool
	// quiet writes nothing away from a terminal.
	quiet bool
	style *lipgloss.Renderer

	mu          sync.Mutex
	label       string
	done, total int
	began       time.Time
	shown       time.Time
	written     int  // the count last written away from a terminal
	drawn       bool // the bar is on the screen now
}

func newBar(w io.Writer) *bar {
	return &bar{w: w, terminal: isTerminal(w), style: lipgloss.NewRenderer(w), began: time.Now()}
}

// Phase begins a new count.
func (b *bar) Phase(label string, total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.label, b.done, b.total, b.began = label, 0, total, time.Now()
	b.show(true)
}

// Add counts n more.
func (b *bar) Add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	b.show(b.done >= b.total)
}

// Progress sets the count.
func (b *bar) Progress(done, total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := done != b.done || total != b.total
	b.done, b.total = done, total
	b.show(changed && done >= total)
}

// Say writes a line above the bar.
func (b *bar) Say(line string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	fmt.Fprintln(b.w, line)
	if b.terminal && b.total > 0 {
		b.draw()
	}
}

// End takes the bar off the screen.
func (b *bar) End() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clear()
	b.total = 0
}

func (b *bar) clear() {
	if b.drawn {
		fmt.Fprint(b.w, barClear)
		b.drawn = false
	}
}

// show draws or writes when it is time to, or at once.
func (b *bar) show(now bool) {
	every := barFrame
	if !b.terminal {
		every = barLine
	}
	if b.total == 0 || (!now && time.Since(b.shown) < every) {
		return
	}
	b.shown = time.Now()
	if b.terminal {
		b.draw()
		return
	}
	if !b.quiet && (now || b.done != b.written) {
		b.written = b.done
		fmt.Fprintf(b.w, "%s%d of %d\n", prefixed(b.label), b.done, b.total)
	}
}

func (b *bar) draw() {
	done := min(b.done, b.total)
	cells := done * barCells / b.total
	full := b.style.NewStyle().Foreground(lipgloss.Color("2")).Render(strings.Repeat(barFull, cells))
	empty := b.style.NewStyle().Faint(true).Render(strings.Repeat(barEmpty, barCells-cells))
	rate := ""
	if spent := time.Since(b.began).Seconds(); spent > 0.2 {
		rate = fmt.Sprintf("%.0f/s", float64(done)/spent)
	}
	fmt.Fprint(b.w, barClear+fmt.Sprintf(barLabelled, prefixed(b.label)+full, empty, done*100/b.total, done, b.total, rate))
	b.drawn = true
}

func prefixed(label string) string {
	if label == "" {
		return ""
	}
	return fmt.Sprintf("%-14s", label+":")
}
