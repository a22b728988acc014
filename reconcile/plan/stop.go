package plan

import (
	"reconciler/manifest"
	"reconciler/runtime"
)

// Stop is one container that is to be stopped, after others.
type Stop struct {
	Status runtime.Status
	After  []runtime.ID
}

// StopOrder returns every container, each after those that depend on it, as far as they still say what that was. Where nobody
// depends on it a container waits for nobody. A circle, which no valid manifest has, is cut.
func StopOrder(observed []runtime.Status) []Stop {
	dependants := map[manifest.Name][]int{}
	for i, o := range observed {
		w, err := manifest.DecodeWorkload(o.Spec.Origin)
		if err != nil {
			continue
		}
		for _, name := range dependencies(&w) {
			dependants[name] = append(dependants[name], i)
		}
	}
	stops := make([]Stop, 0, len(observed))
	state := make([]visit, len(observed))
	var add func(i int)
	add = func(i int) {
		state[i] = visiting
		s := Stop{Status: observed[i]}
		for _, j := range dependants[manifest.Name(observed[i].Spec.Name)] {
			if state[j] == 0 {
				add(j)
			}
			if state[j] == visited {
				s.After = append(s.After, observed[j].ID)
			}
		}
		state[i] = visited
		stops = append(stops, s)
	}
	for i := range observed {
		if state[i] == 0 {
			add(i)
		}
	}
	return stops
}
