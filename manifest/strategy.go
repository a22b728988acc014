package manifest

// defaultedStrategy returns the strategy of s. New beside old is of use where it can be told that the new one is ready, and
// possible where both do not get into each other's way.
func defaultedStrategy(s Spec) *Strategy {
	out := valueOf(s.Strategy)
	usual := StrategyRecreate
	if s.ReadinessProbe != nil && s.Exclusive() == "" {
		usual = StrategyStartFirst
	}
	orDefault(&out.Type, usual)
	out.MinReadySeconds = orPointer(out.MinReadySeconds, 0)
	out.ProgressDeadlineSeconds = orPointer(out.ProgressDeadlineSeconds, DefaultProgressDeadlineSeconds)
	out.Rollback = orPointer(out.Rollback, true)
	return &out
}

// Exclusive says what of s two containers cannot have at a time, so that a new one cannot be started beside the old one:
// "it writes to volume data, which is not shared". Empty: they can run beside each other.
func (s Spec) Exclusive() string {
	switch other, shares := s.Network.SharedWith(); {
	case shares:
		return "it shares the network of " + other
	case s.Network == NetworkHost:
		return "it is on the server's own network"
	}
	for _, m := range s.Mounts {
		switch {
		case valueOf(m.ReadOnly):
		case m.Volume != nil && !valueOf(m.Shared):
			return "it writes to volume " + m.Volume.Name + ", which is not shared"
		case m.HostPath != "":
			return "it writes to " + m.HostPath + " of the server"
		}
	}
	for _, d := range s.Devices {
		return "it has the device " + d.Path
	}
	return ""
}
