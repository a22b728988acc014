package plan

import (
	"fmt"

	"reconciler/manifest"
	"reconciler/runtime"
)

// runs reports whether something of w runs.
func (w *work) runs() bool {
	return w.keep != nil && w.keep.State == runtime.StateRunning || w.candidate != nil && w.candidate.State == runtime.StateRunning
}

// conditionOf returns what of waits for in dep: as it says, else Healthy where dep can tell that, else Started.
func (c *computation) conditionOf(of *manifest.Workload, dep *work) manifest.Condition {
	on := false
	for _, d := range of.Spec.DependsOn {
		if name, err := manifest.ParseName(d.Name, of.Name.Namespace); err != nil || name != dep.name {
			continue
		}
		if d.Condition != "" {
			return d.Condition
		}
		on = true
	}
	if on && c.isProbed(dep.want.Spec) {
		return manifest.ConditionHealthy
	}
	return manifest.ConditionStarted
}

// notHealthy says why dep does not count as healthy for w; empty: it does. While dep is being updated only what ran
// before is started again beside it.
func (c *computation) notHealthy(w, dep *work) string {
	_, flying := c.in.InFlight[dep.name]
	moves := dep.candidate != nil || flying || dep.step != nil && dep.step.starts()
	again := w.step != nil && (w.step.Op == OpRestart || w.step.Op == OpRollback)
	ready := false
	for _, s := range []*runtime.Status{dep.keep, dep.candidate} {
		if s != nil && s.State == runtime.StateRunning && s.Serving {
			ready = c.judge(c.madeFrom(dep, s), s).ready
		}
	}
	switch {
	case ready && (again || !moves):
		return ""
	case ready:
		return fmt.Sprintf("waits for %s, which is being updated", dep.name.Short())
	case dep.hold != nil && dep.hold.Reason != ReasonProgressing:
		return fmt.Sprintf("waits for %s to be healthy: %s", dep.name.Short(), dep.hold.Reason)
	default:
		return fmt.Sprintf("waits for %s to be healthy", dep.name.Short())
	}
}

// notCompleted says why dep has not completed; empty: it has.
func (c *computation) notCompleted(dep *work) string {
	wait := fmt.Sprintf("waits for %s to complete", dep.name.Short())
	if dep.want.Kind == manifest.KindJob {
		switch {
		case c.completed(dep):
			return ""
		case c.isOver(dep):
			return wait + ": " + c.record(dep).Message
		default:
			return wait
		}
	}
	s := dep.keep
	switch {
	case s == nil || dep.candidate != nil || s.Spec.OriginDigest != dep.want.Digest || dep.step != nil:
		return wait
	case s.State != runtime.StateExited || s.Stopped:
		return wait
	case s.ExitCode == nil || *s.ExitCode != 0:
		return wait + ": it " + exitText(s, 0)
	default:
		return ""
	}
}
