package source

import "time"

// LookOften makes a watch of s look often for a path that is not there.
func LookOften(s *Source) { s.lookAgain = 50 * time.Millisecond }
