package supervisor

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"reconciler/runtime"
)

// Many callers that do anything to the same few containers at the same time, half of them giving up in the middle: the
// supervisor lives (and has no data race, where it is built to tell), every container can be deleted, nothing is left.
func TestManyCallersAtOnce(t *testing.T) {
	e := newEnv(t)
	v, err := e.c.Version(e.ctx())
	if err != nil {
		t.Fatal(err)
	}
	scripts := []string{
		"exec sleep 1000", "trap 'exit 3' TERM; while :; do sleep 0.1; done", "exit 1", "yes | head -c 100000", "trap '' TERM; sleep 1000",
	}
	reqs := make([]StartRequest, len(scripts))
	for i, script := range scripts {
		id := fmt.Sprint("shared-", i)
		reqs[i] = e.bundle(id, e.spec(id, "sh", "-c", script))
	}
	const callers, calls = 12, 25
	var wg sync.WaitGroup
	for seed := range uint64(callers) {
		wg.Go(func() {
			dice := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // repeatable, not secret
			for range calls {
				patience := 20 * time.Second
				if dice.IntN(2) == 0 {
					patience = time.Duration(1+dice.IntN(300)) * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				anything(ctx, e.c, reqs[dice.IntN(len(reqs))], dice)
				cancel()
			}
		})
	}
	wg.Wait()
	for _, req := range reqs {
		if err := e.c.Delete(e.ctx(), req.ID); err != nil {
			t.Error(err)
		}
		if left := e.left(req.ID); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if left := children(t, v.Pid); left != "" {
		t.Errorf("children are left: %s", left)
	}
	if now, err := e.c.Version(e.ctx()); err != nil || now.Pid != v.Pid {
		t.Errorf("the supervisor was %d, is %d, %v", v.Pid, now.Pid, err)
	}
}

// anything makes a call whose outcome depends on what others do.
func anything(ctx context.Context, c *Client, req StartRequest, dice *rand.Rand) {
	switch dice.IntN(7) {
	case 0, 1:
		_, _ = c.Start(ctx, req, nil)
	case 2:
		_, _ = c.Start(ctx, req, func(*os.File) error {
			if dice.IntN(3) == 0 {
				return errors.New("no address is free")
			}
			return nil
		})
	case 3:
		_, _ = c.Stop(ctx, req.ID, "", time.Duration(dice.IntN(200))*time.Millisecond)
	case 4:
		_ = c.Delete(ctx, req.ID)
	case 5:
		_, _ = c.Exec(ctx, ExecRequest{ID: req.ID, Args: []string{"sleep", "0.05"}, TTY: dice.IntN(2) == 0}, nil, nil, nil)
	case 6:
		_ = c.Update(ctx, req.ID, runtime.Resources{Pids: int64(20 + dice.IntN(100)), Memory: 64 << 20}, runtime.Logs{MaxSize: 8192})
		_ = c.Signal(ctx, req.ID, "KILL")
	}
}
