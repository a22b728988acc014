package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"reconciler/runtime"
)

// progress shows how far long work is: one line that is written over on a terminal, and elsewhere a plain line when a
// piece of work begins and ends.
type progress struct {
	w        io.Writer
	terminal bool

	mu    sync.Mutex
	work  map[string]runtime.Progress
	drawn time.Time
	width int
}

func (a *app) newProgress() *progress {
	return &progress{w: a.err, terminal: isTerminal(a.err), work: map[string]runtime.Progress{}}
}

// report takes news of a piece of work. It may be called from several goroutines.
func (p *progress) report(news runtime.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, known := p.work[news.What]
	p.work[news.What] = news
	if !p.terminal {
		if !known {
			_, _ = fmt.Fprintln(p.w, news.What)
		}
		return
	}
	if now := time.Now(); now.Sub(p.drawn) > 50*time.Millisecond {
		p.drawn = now
		p.draw()
	}
}

// draw writes the line anew.
func (p *progress) draw() {
	var done, total int64
	var names []string
	for name, w := range p.work {
		done, total = done+w.Done, total+w.Total
		if w.Total == 0 || w.Done < w.Total {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	line := strings.Join(names, ", ")
	if total > 0 {
		const width = 30
		full := int(min(done, total) * width / total)
		line = fmt.Sprintf("[%s%s] %s/%s %s", strings.Repeat("=", full), strings.Repeat(" ", width-full), size(done), size(total), line)
	}
	if len(line) > 100 {
		line = line[:100]
	}
	_, _ = fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// done takes the line away.
func (p *progress) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && p.width > 0 {
		_, _ = fmt.Fprintf(p.w, "\r%s\r", strings.Repeat(" ", p.width))
		p.width = 0
	}
}
