package plan

import "time"

// Clock is the time of a server as one look at it saw it.
type Clock struct {
	// Now is the time of day, which may be wrong and may jump.
	Now time.Time
	// Boot is how long the server has run, suspend included (CLOCK_BOOTTIME): no step of the clock moves it. BootID tells one
	// run of the kernel from the next.
	Boot   time.Duration
	BootID string
}

// Moment is when something happened, by both clocks.
type Moment struct {
	Wall   time.Time     `json:"wall"`
	Boot   time.Duration `json:"boot"`
	BootID string        `json:"bootID,omitempty"`
}

// Moment returns the present one.
func (c Clock) Moment() Moment {
	return Moment{Wall: c.Now.UTC().Round(0), Boot: c.Boot, BootID: c.BootID}
}

// Before returns the moment d ago.
func (c Clock) Before(d time.Duration) Moment {
	m := c.Moment()
	m.Wall, m.Boot = m.Wall.Add(-d), m.Boot-d
	return m
}

// Since returns how long ago m was: by the clock that nobody can set as far as it goes. Over a reboot only the time of day
// knows; where that is wrong, it was at least as long ago as the server runs.
func (c Clock) Since(m Moment) time.Duration {
	if m.BootID == c.BootID {
		return max(0, c.Boot-m.Boot)
	}
	return max(0, c.Boot, c.Now.Sub(m.Wall))
}

// steadySince reports whether the time of day went on since m as time did: nobody set the clock.
func (c Clock) steadySince(m Moment) bool {
	const slew = 500 * time.Millisecond
	drift := c.Now.Sub(m.Wall) - (c.Boot - m.Boot)
	return m.BootID == c.BootID && !m.Wall.IsZero() && drift > -slew && drift < slew
}
