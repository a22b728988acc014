package main

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"reconciler/reconcile/report"
)

// The tests that break things at random, and on purpose at every place. They are in this package because what they break is
// the whole program. A short form is part of all tests; `make chaos` runs the long one, with -chaos.
var (
	chaos     = flag.Bool("chaos", false, "break things for long: minutes for each test")
	chaosSeed = flag.Uint64("chaos.seed", 0, "break the same things as the run that printed this number (0: in the long form others each time)")
)

// dice returns what the test decides by, and tells how to have the same again.
func dice(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *chaosSeed
	switch {
	case seed != 0:
	case *chaos:
		seed = uint64(time.Now().UnixNano())
	default:
		seed = 1 // what a change breaks is not for luck to find: the long form is for that
	}
	t.Logf("again: go test -tags seccomp ./cmd/reconciler -run '^%s$' -chaos=%t -chaos.seed=%d", t.Name(), *chaos, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// either returns how often the short and the long form of a test do something.
func either(short, long int) int {
	if *chaos {
		return long
	}
	return short
}

// keeper keeps an agent running that dies again and again.
type keeper struct {
	*server
	args  []string
	agent *agent
	logs  []*logBuffer // of the agents that there were, the last ones
}

// keep returns a keeper of an agent with these arguments. It does not start it yet.
func (s *server) keep(args ...string) *keeper {
	s.t.Helper()
	k := &keeper{server: s, args: args}
	s.t.Cleanup(func() {
		k.stop(syscall.SIGTERM)
	})
	return k
}

// told is what the last agents and the supervisor logged.
func (k *keeper) told() string {
	var b strings.Builder
	for i, log := range k.logs {
		fmt.Fprintf(&b, "log of agent %d of the last %d:\n%s\n", i+1, len(k.logs), log)
	}
	text, _ := os.ReadFile(k.state() + "/supervisor.log") // none: it did not run yet
	if lines := bytes.SplitAfter(text, []byte("\n")); len(lines) > 60 {
		text = bytes.Join(lines[len(lines)-60:], nil)
	}
	fmt.Fprintf(&b, "the supervisor's log:\n%s", text)
	return b.String()
}

// alive starts the agent where none runs, and waits until it answers; false: it ended before that.
func (k *keeper) alive() bool {
	k.t.Helper()
	if k.agent != nil {
		select {
		case <-k.agent.ended:
			k.agent = nil
		default:
		}
	}
	if k.agent == nil {
		k.agent = k.spawn(k.args...)
		k.logs = append(k.logs, k.agent.log)
		k.logs = k.logs[max(0, len(k.logs)-4):]
	}
	select {
	case <-k.agent.log.ready:
		return true
	case <-k.agent.ended:
		return false
	case <-time.After(time.Minute):
		k.t.Fatalf("the agent is not ready:\n%s", k.told())
		return false
	}
}

// stop ends the agent, if one runs.
func (k *keeper) stop(sig syscall.Signal) {
	if k.agent != nil {
		k.agent.stop(sig)
		k.agent = nil
	}
}

// settle has an agent converge, whatever dies meanwhile, and returns the last sync. Who waits out a backoff need not.
func (k *keeper) settle() result {
	k.t.Helper()
	var r result
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		if !k.alive() {
			continue
		}
		r = k.do("sync", "--timeout", "20s")
		if r.code == 0 {
			return r
		}
		if strings.Contains(r.err, "`reconciler agent`") {
			select {
			case <-k.agent.ended:
			case <-time.After(30 * time.Second):
				k.t.Fatalf("the agent lives and does not answer: %s", r.err)
			}
			continue
		}
		if !k.retry() {
			return r
		}
	}
	k.t.Fatalf("it does not converge: status %d\n%s%s\n%s\n%s", r.code, r.out, r.err, k.do("ps", "-A").out, k.told())
	return r
}

// rows is server.rows, also where the agent dies while it is asked.
func (k *keeper) rows() map[string]report.Row {
	k.t.Helper()
	var r result
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if r = k.do("ps", "-A", "-o", "json"); r.code == 0 {
			return byName(k.t, r.out)
		}
	}
	k.t.Fatalf("ps: status %d\n%s", r.code, r.err)
	return nil
}

// retry ends the backoff of everything that is to be tried again; false: nothing is.
func (k *keeper) retry() bool {
	k.t.Helper()
	any := false
	for name, row := range k.rows() {
		if row.NextRetryAt != nil {
			any = true
			k.do("retry", name) // an agent that died meanwhile is seen by who settles
		}
	}
	return any
}

// failpointBinary is the program with its failpoints.
var failpointBinary = sync.OnceValues(func() (string, error) { return buildBinary("seccomp,failpoints") })
