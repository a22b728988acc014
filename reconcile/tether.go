package reconcile

import (
	"context"
	"sync"
	"time"
)

// finishTime is how long an agent that is told to stop waits for a container that was stopped to come back: nobody else
// would start it.
const finishTime = 30 * time.Second

// tether ends a step with the agent: at once or, where the step must finish, finishTime later.
type tether struct {
	mu     sync.Mutex
	finish bool
}

// tie calls end as said above, unless ctx, which is the step's, ends before. The caller lets go when the step has ended.
func (t *tether) tie(agent, ctx context.Context, end context.CancelCauseFunc) (letGo func() bool) {
	return context.AfterFunc(agent, func() {
		if !t.endAtOnce(agent, end) {
			select {
			case <-time.After(finishTime):
			case <-ctx.Done():
			}
			end(context.Cause(agent))
		}
	})
}

func (t *tether) endAtOnce(agent context.Context, end context.CancelCauseFunc) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.finish {
		end(context.Cause(agent))
	}
	return !t.finish
}

// mustFinish is called by the step before it stops what it will start again. An error says that it is to end instead.
func (t *tether) mustFinish(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.finish = true
	return context.Cause(ctx)
}
