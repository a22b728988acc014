package main

import (
	"fmt"
	"time"
)

// loop is a program that starts one container with each of its runs.
type loop struct {
	who     string
	run     func(name string) (time.Duration, error)
	started func(name string) (time.Time, error) // when the container's process was started; nil where that is not told
	remove  func(names []string) (time.Duration, error)
	memory  func() (float64, error) // of everything that it takes
}

// measure starts the containers one after the other, looks what one more costs and what they take, and removes them. What
// is to be done while they are there is atRest.
func (b *bench) measure(l loop, atRest func() error) error {
	var names []string
	var all time.Duration
	var few float64
	small := b.sizes()[0]
	for i := range b.n {
		name := fmt.Sprintf("c%d", i)
		took, err := l.run(name)
		if err != nil {
			return err
		}
		names, all = append(names, name), all+took
		if len(names) == small && b.wants("memory") {
			if few, err = l.memory(); err != nil {
				return err
			}
		}
	}
	b.set("start", l.who, millis(all))
	if b.wants("memory") {
		many, err := l.memory()
		if err != nil {
			return err
		}
		b.set("memory", l.who, many)
		b.set("memory-more", l.who, (many-few)/float64(b.n-small))
	}
	if b.wants("one") && l.started != nil {
		if err := b.loopOneMore(l); err != nil {
			return err
		}
	}
	if err := atRest(); err != nil {
		return err
	}
	took, err := l.remove(names)
	if err != nil {
		return err
	}
	b.set("removal", l.who, millis(took))
	return nil
}

func (b *bench) loopOneMore(l loop) error {
	var runs, backs []float64
	for i := range times {
		name := fmt.Sprintf("more%d", i)
		began := time.Now()
		took, err := l.run(name)
		if err != nil {
			return err
		}
		at, err := l.started(name)
		if err != nil {
			return err
		}
		if _, err := l.remove([]string{name}); err != nil {
			return err
		}
		runs, backs = append(runs, millis(at.Sub(began))), append(backs, millis(took))
	}
	b.set("one-step", l.who, median(backs)) // there is no other figure of the step alone
	b.set("one-runs", l.who, median(runs))
	b.set("one-back", l.who, median(backs))
	return nil
}
