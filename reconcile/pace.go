package reconcile

import (
	"context"
	"time"
)

// pace is how fast one turn may follow another. A push is looked at again and again without a pause, until everything that it
// asks for is there; where much happens for long, such as runs of CronJobs by the dozen, it gathers in pauses, and looking at
// it takes a fortieth of one core.
type pace struct {
	credit time.Duration // of processor time for turns
	at     time.Time
}

const (
	paceBurst = 250 * time.Millisecond // the most credit there can be
	paceShare = 40                     // the credit of one turn takes so many times its length to come back
	paceRest  = 250 * time.Millisecond // the longest pause
)

func newPace(now time.Time) pace { return pace{credit: paceBurst, at: now} }

// rest returns how long to wait at now, after a turn that took so long.
func (p *pace) rest(now time.Time, took time.Duration) time.Duration {
	p.credit = min(paceBurst, p.credit+max(0, now.Sub(p.at))/paceShare) - took
	p.credit, p.at = max(p.credit, -paceRest/paceShare), now
	return max(0, -p.credit) * paceShare
}

// rest waits for d, or until there is something that is not to be put off, and reports whether ctx goes on.
func (l *loop) rest(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-l.a.seek:
			l.lookAtSource(ctx)
		case <-l.a.asked:
			return true
		case <-timer.C:
			return true
		}
	}
}
