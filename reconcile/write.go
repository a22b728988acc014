package reconcile

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/reconcile/report"
)

func (l *loop) record(r journal.Record) {
	r.Time = time.Now().UTC()
	l.records = append(l.records, r)
}

// flush writes what this turn decided. A disk that cannot be written does not keep containers from running: it becomes
// a warning, and the next turn tries again.
func (l *loop) flush() {
	var err error
	if l.dirty {
		l.kept = nil
		if err = l.store.Save(l.whole()); err == nil {
			l.dirty = false
		}
	}
	l.note("write state", err)
	l.writeRecords()
	for _, answer := range l.answers {
		if answer.kept && answer.err == nil && err != nil {
			answer.err = &NotKeptError{Err: err}
		}
		answer.to <- answer.err
	}
	l.answers = nil
}

// whole returns the state with what the loop goes on to change, as it is now. It is copied once for each turn that changed it.
func (l *loop) whole() journal.State {
	st := l.state
	if l.kept == nil {
		l.kept = &memory{histories: maps.Clone(l.histories), ledger: l.ledger.Clone()}
	}
	st.Histories, st.Ledger = l.kept.histories, l.kept.ledger
	return st
}

// memory is a copy of what the loop changes in place.
type memory struct {
	histories map[manifest.Name]plan.History
	ledger    plan.Ledger
}

// maxUnwritten bounds the records that wait for a disk that takes them; the oldest go first.
const maxUnwritten = 1000

func (l *loop) writeRecords() {
	records := slices.Concat(l.unwritten, l.records)
	if len(records) == 0 {
		return
	}
	durable := false
	for _, r := range records {
		durable = durable || r.Type != journal.TypeResult && r.Type != journal.TypeExited && r.Type != journal.TypeHealth
	}
	l.a.telling.Lock()
	defer l.a.telling.Unlock()
	err := l.store.Append(durable, records...)
	l.note("write journal", err)
	if l.unwritten = nil; err != nil {
		l.unwritten = records[max(0, len(records)-maxUnwritten):]
	}
	for _, r := range l.records {
		if e, ok := report.EventOf(r); ok {
			l.a.events.send(e)
		}
	}
	l.records = nil
}

// note keeps a warning as long as its cause lasts.
func (l *loop) note(what string, err error) {
	if err == nil {
		delete(l.warnings, what)
		return
	}
	if text := fmt.Sprintf("cannot %s: %v", what, err); l.warnings[what] != text {
		l.warnings[what] = text
		l.log.Error(text)
	}
}
