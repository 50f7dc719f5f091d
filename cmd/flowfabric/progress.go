package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/charmbracelet/lipgloss"
)

// spinnerFrames turn while work goes on, one every spinnerPace.
var spinnerFrames = []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}

const spinnerPace = 100 * time.Millisecond

// meter shows a person that long work goes on: a spinner, the time spent and,
// where known, a bar. It draws on standard error, and only when standard output
// and standard error are terminals.
type meter struct {
	w     io.Writer
	start time.Time

	mu       sync.Mutex
	label    string
	fraction float64 // below 0: unknown
	frame    int
	stop     chan struct{}
	done     sync.WaitGroup
}

// meter starts a meter; the caller ends it. Away from a terminal it does
// nothing.
func (c *cli) meter(label string) *meter {
	m := &meter{label: label, fraction: -1, start: time.Now()}
	if !isTerminal(c.out) || !isTerminal(c.err) || c.options.output == outputJSON {
		return m
	}
	m.w, m.stop = c.err, make(chan struct{})
	m.done.Add(1)
	go m.loop()
	return m
}

// set changes what the meter says; a fraction below 0 is "unknown".
func (m *meter) set(label string, fraction float64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.label, m.fraction = label, fraction
}

// end takes the meter off the screen.
func (m *meter) end() {
	if m.stop == nil {
		return
	}
	close(m.stop)
	m.done.Wait()
	m.stop = nil
}

func (m *meter) loop() {
	defer m.done.Done()
	tick := time.NewTicker(spinnerPace)
	defer tick.Stop()
	style := lipgloss.NewRenderer(m.w)
	for {
		select {
		case <-m.stop:
			fmt.Fprint(m.w, barClear)
			return
		case <-tick.C:
			fmt.Fprint(m.w, barClear+m.draw(style))
		}
	}
}

func (m *meter) draw(style *lipgloss.Renderer) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frame++
	busy := style.NewStyle().Foreground(lipgloss.Color("6"))
	parts := []string{busy.Render(spinnerFrames[m.frame%len(spinnerFrames)]) + " " + clean(m.label)}
	if m.fraction >= 0 {
		full := int(min(m.fraction, 1) * barCells)
		parts = append(parts, busy.Render(strings.Repeat(barFull, full))+strings.Repeat(barEmpty, barCells-full))
	}
	return strings.Join(append(parts, span(time.Since(m.start))), "  ")
}
