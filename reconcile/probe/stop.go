package probe

import (
	"context"
	"fmt"
	"time"

	"reconciler/manifest"
	"reconciler/runtime"
)

// Stop stops a container as its manifest says: its preStop hook first, then the stop signal with what is left of grace. The
// hook's failure, which failed is told of, keeps nothing from being stopped; without any grace it is not run.
func Stop(ctx context.Context, rt runtime.Runtime, s runtime.Status, grace time.Duration, failed func(Note)) error {
	c, err := careOf(s.Spec.Origin)
	if err != nil || c.preStop == nil || grace <= 0 || s.State != runtime.StateRunning {
		return rt.Stop(ctx, s.ID, grace) // what has no manifest that can be read has no hook either
	}
	begun := time.Now()
	limited, cancel := context.WithTimeout(ctx, grace)
	said := ask(limited, rt, targetOf(s), *c.preStop)
	cancel()
	if err = ctx.Err(); err != nil {
		return err
	}
	if !said.ok && !said.unknown {
		if time.Since(begun) >= grace {
			said.message = fmt.Sprintf("it took all of the grace period of %v", grace)
		}
		failed(Note{
			Name: manifest.Name(s.Spec.Name), Commit: s.Spec.Revision, Reason: ReasonPreStop,
			Message: "preStop failed: " + said.message, Warning: true,
		})
	}
	return rt.Stop(ctx, s.ID, max(0, grace-time.Since(begun)))
}
