package source

import (
	"hash/fnv"
	"time"
)

// NextPoll returns when to look for a new revision next. The nodes of a fleet are spread over the interval by a hash of
// their names, and each always polls at the same phase of it, also after a restart. The result is between a tenth of
// the interval and one and a tenth after now.
func (s *Source) NextPoll(now time.Time) time.Time {
	interval := s.cfg.Interval
	h := fnv.New64a()
	h.Write([]byte(s.cfg.NodeName))
	phase := time.Duration(h.Sum64() % uint64(interval))
	since := time.Duration((now.UnixNano() - int64(phase)) % int64(interval))
	if since < 0 { // a clock before 1970
		since += interval
	}
	wait := interval - since
	if wait < interval/10 {
		wait += interval // a timer that fired early must not poll twice
	}
	return now.Add(wait)
}

// Interval returns the time between polls.
func (s *Source) Interval() time.Duration { return s.cfg.Interval }
