package plan

import (
	"fmt"
	"time"

	"github.com/robfig/cron/v3"

	"reconciler/manifest"
)

// schedule says when a CronJob is due: at times that depend on nothing but the calendar, so that each of them is the same one
// for an agent that was started again.
type schedule struct {
	every  time.Duration // @every: whole multiples of it since 1970; 0: fields
	fields *cron.SpecSchedule
	zone   *time.Location
}

// starBit is how the parser marks a field that is a star.
const starBit = 1 << 63

func parseSchedule(s manifest.Spec) (schedule, error) {
	parsed, err := cron.ParseStandard(s.Schedule)
	if err != nil {
		return schedule{}, fmt.Errorf("schedule %q: %w", s.Schedule, err)
	}
	zone := time.UTC
	if s.TimeZone != "" {
		if zone, err = time.LoadLocation(s.TimeZone); err != nil {
			return schedule{}, fmt.Errorf("time zone %q: %w", s.TimeZone, err)
		}
	}
	switch p := parsed.(type) {
	case cron.ConstantDelaySchedule:
		return schedule{every: p.Delay, zone: zone}, nil
	case *cron.SpecSchedule:
		p.Location = zone
		return schedule{fields: p, zone: zone}, nil
	default:
		return schedule{}, fmt.Errorf("schedule %q: not known", s.Schedule)
	}
}

// next returns the first time after t; the zero time where there is none in five years.
//
// Where clocks are put forward, times in the hour that is left out come at its end, all of them as one. Where they are put
// back, times in the hour that comes twice come once, in the first. A schedule of every hour goes by the hours that pass.
func (s schedule) next(t time.Time) time.Time {
	if s.every > 0 {
		step := int64(s.every / time.Second)
		n := t.Unix() / step
		if t.Unix() < 0 && t.Unix()%step != 0 {
			n--
		}
		return time.Unix((n+1)*step, 0).UTC()
	}
	if s.fields.Hour&starBit != 0 {
		return utc(s.fields.Next(t.In(s.zone)))
	}
	from := t.In(s.zone)
	n := s.fields.Next(from)
	for !n.IsZero() && repeated(n) {
		n = s.fields.Next(n)
	}
	if gap, ok := s.inGap(from, n); ok {
		return utc(gap)
	}
	return utc(n)
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// repeated reports whether the clock on the wall has shown t before: it was put back less than that long ago.
func repeated(t time.Time) bool {
	start, _ := t.ZoneBounds()
	if start.IsZero() {
		return false
	}
	_, before := start.Add(-time.Second).Zone()
	_, now := t.Zone()
	return t.Before(start.Add(time.Duration(before-now) * time.Second))
}

// inGap returns the end of the first gap between from and until that holds a time of the schedule: what it would have been,
// had the clock gone on as before.
func (s schedule) inGap(from, until time.Time) (time.Time, bool) {
	for {
		_, end := from.ZoneBounds()
		if end.IsZero() || !end.Before(until) {
			return time.Time{}, false
		}
		name, before := end.Add(-time.Second).Zone()
		_, after := end.Zone()
		if after > before {
			asBefore := *s.fields
			asBefore.Location = time.FixedZone(name, before)
			missed := asBefore.Next(end.Add(-time.Second))
			if !missed.IsZero() && missed.Before(end.Add(time.Duration(after-before)*time.Second)) {
				return end, true
			}
		}
		from = end
	}
}

// last returns the latest time after from and not after to, and whether it is the only one there.
func (s schedule) last(from, to time.Time) (at time.Time, only, ok bool) {
	first := s.next(from)
	if first.IsZero() || first.After(to) {
		return time.Time{}, false, false
	}
	if s.every > 0 {
		at = s.next(to.Add(-s.every))
		return at, at.Equal(first), true
	}
	// From ever further back, so that a year of minutes is not counted through.
	for _, back := range []time.Duration{time.Minute, time.Hour, 24 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour} {
		start := to.Add(-back)
		if !start.After(from) {
			break
		}
		if n := s.next(start); !n.IsZero() && !n.After(to) {
			at = n
			break
		}
	}
	if at.IsZero() {
		at = first
	}
	for n := s.next(at); !n.IsZero() && !n.After(to); n = s.next(at) {
		at = n
	}
	return at, at.Equal(first), true
}
