package reconcile

import (
	"hash/fnv"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The backoff of failed steps and fetches.
const (
	backoffInitial = 10 * time.Second
	backoffMax     = 5 * time.Minute
	backoffJitter  = 0.1
)

// delay is how long to wait after the n-th failure in a row: 10 s doubling to 5 min, 10 % more or less.
func delay(n int) time.Duration {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(backoffInitial), backoff.WithMaxInterval(backoffMax),
		backoff.WithMultiplier(2), backoff.WithRandomizationFactor(backoffJitter), backoff.WithMaxElapsedTime(0),
	)
	var d time.Duration
	for range min(max(n, 1), 8) { // the eighth is at the maximum
		d = b.NextBackOff()
	}
	return d
}

// maxDelay is the longest that delay returns: a later next try was written before the clock was set back.
const maxDelay = backoffMax + backoffMax/10

// pollInterval spreads the polls of a fleet over 20 % of the interval, always at the same place for one node.
func pollInterval(interval time.Duration, node string) time.Duration {
	h := fnv.New32a()
	_, _ = h.Write([]byte(node))
	share := float64(h.Sum32()) / (1 << 32) // 0 to 1
	return time.Duration(float64(interval) * (0.9 + 0.2*share))
}
