package reconcile

import (
	"maps"
	"sync"
	"time"

	"reconciler/manifest"
)

// Counters are numbers since the agent started, for metrics.
type Counters struct {
	Reconciles        map[string]uint64 // by result: ok, error
	ReconcileSeconds  Histogram
	Fetches           map[string]uint64 // by result: changed, unchanged, failed, rejected
	Restarts          map[RestartKey]uint64
	Drift             uint64
	GuardBlocked      uint64
	Rollbacks         uint64
	ImagePullBytes    int64
	StateBytesWritten int64
}

// RestartKey says what was restarted and why in one word.
type RestartKey struct {
	Name   manifest.Name
	Reason string
}

// Histogram counts observations by upper bound, cumulatively as Prometheus wants it.
type Histogram struct {
	Buckets map[float64]uint64
	Count   uint64
	Sum     float64
}

type counters struct {
	mu sync.Mutex
	c  Counters
}

func newCounters() counters {
	return counters{c: Counters{
		Reconciles: map[string]uint64{}, Fetches: map[string]uint64{}, Restarts: map[RestartKey]uint64{},
		ReconcileSeconds: Histogram{Buckets: map[float64]uint64{0.001: 0, 0.005: 0, 0.01: 0, 0.05: 0, 0.1: 0, 0.5: 0, 1: 0, 5: 0}},
	}}
}

func (c *counters) add(change func(*Counters)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.c)
}

func (c *counters) observe(took time.Duration, result string) {
	c.add(func(n *Counters) {
		n.Reconciles[result]++
		h := &n.ReconcileSeconds
		h.Count++
		h.Sum += took.Seconds()
		for bound := range h.Buckets {
			if took.Seconds() <= bound {
				h.Buckets[bound]++
			}
		}
	})
}

func (c *counters) snapshot() Counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.c
	out.Reconciles, out.Fetches = maps.Clone(c.c.Reconciles), maps.Clone(c.c.Fetches)
	out.Restarts = maps.Clone(c.c.Restarts)
	out.ReconcileSeconds.Buckets = maps.Clone(c.c.ReconcileSeconds.Buckets)
	return out
}
