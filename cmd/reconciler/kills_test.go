package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
)

// TestKills kills the agent and the supervisor at random moments while they converge: 300 times the one and 100 times the
// other in the long form. Containers that no commit touches keep their process, and what they write comes out whole; what
// ends meanwhile is told with the code that it ended with.
func TestKills(t *testing.T) {
	random := dice(t)
	s := newServer(t)
	files := sourcetest.Files{}
	for _, name := range steady {
		files[name+".yaml"] = busybox(name, counting, "restartPolicy: Never")
	}
	repo := repository(t, files)
	k := s.keep("--repo", repo.Bare, "--max-remove", "100%")
	if r := k.settle(); r.code != 0 {
		t.Fatalf("sync: status %d\n%s", r.code, r.err)
	}
	before := k.rows()
	kills := killings{keeper: k, random: random, agents: either(9, 300), supervisors: either(3, 100)}
	for round := 1; kills.agents > 0 || kills.supervisors > 0; round++ {
		code := 10 + round%50
		repo.CommitPush(fmt.Sprint("round ", round), sourcetest.Files{
			"flip.yaml": busybox("flip", forever, fmt.Sprintf("env: {ROUND: %d}", round)),
			"job.yaml": busybox("job", fmt.Sprintf("echo begins; busybox usleep %d; echo ends; exit %d", random.IntN(600_000), code),
				"restartPolicy: Never", fmt.Sprintf("env: {ROUND: %d}", round)),
			"extra.yaml": map[bool]string{true: busybox("extra", forever), false: sourcetest.Removed}[round%2 == 0],
		})
		kills.some()
		k.await(fmt.Sprint("round ", round), func(rows map[string]report.Row) bool {
			_, extra := rows["extra"]
			job := rows["job"]
			return rows["flip"].State == report.StateRunning && rows["flip"].Revision == repo.Head() && extra == (round%2 == 0) &&
				job.Revision == repo.Head() && job.FinishedAt != nil && job.State != report.StateRunning
		})
		rows := k.rows()
		for _, name := range steady {
			if was, is := before[name], rows[name]; is.ID != was.ID || is.Pid != was.Pid || is.State != report.StateRunning || is.Restarts != 0 {
				t.Fatalf("round %d: %s was touched:\n%+v, was\n%+v\n%s", round, name, is, was, k.told())
			}
		}
		if job := rows["job"]; job.ExitCode == nil || *job.ExitCode != code {
			t.Fatalf("round %d: job ended with code %d, and is told of as %+v\n%s", round, code, job, k.told())
		}
		if out := k.must("logs", "job"); out != "begins\nends\n" {
			t.Fatalf("round %d: the output of job is %q\n%s", round, out, k.told())
		}
	}
	for _, name := range steady {
		if err := unix.Kill(before[name].Pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	k.await("the end of those who write", func(rows map[string]report.Row) bool {
		for _, name := range steady {
			if rows[name].State == report.StateRunning {
				return false
			}
		}
		return true
	})
	for _, name := range steady {
		if row := k.rows()[name]; row.ExitCode == nil || *row.ExitCode != 0 {
			t.Errorf("%s ended with code 0, and is told of as %+v", name, row)
		}
		whole(t, name, k.must("logs", name))
	}
}

// steady are containers that write all the time and are touched by no commit.
var steady = []string{"steady-1", "steady-2", "steady-3"}

// counting writes a numbered line now and then, and its last words when it is told to end.
const counting = `i=0; trap 'echo end $i; exit 0' TERM; while true; do echo line $i; i=$((i+1)); busybox usleep 20000; done`

// whole wants every line that counting wrote, once and uncut.
func whole(t *testing.T, name, out string) {
	t.Helper()
	n := 0
	for line := range strings.Lines(out) {
		switch line {
		case fmt.Sprintf("line %d\n", n):
			n++
		case fmt.Sprintf("end %d\n", n), fmt.Sprintf("end %d\n", n-1): // it may be told between a line and its number
			return
		default:
			t.Errorf("%s: after line %d comes %q", name, n-1, line)
			return
		}
	}
	t.Errorf("%s: no last words after line %d", name, n-1)
}

// killings are how many are to come.
type killings struct {
	*keeper
	random              *rand.Rand
	agents, supervisors int
}

// some kills a few times, each at a moment of its own.
func (k *killings) some() {
	k.t.Helper()
	for range 1 + k.random.IntN(5) {
		supervisor := k.supervisors > 0 && (k.agents == 0 || k.random.IntN(k.agents+k.supervisors) < k.supervisors)
		// One that is started while a child of the one before, which was killed in the middle of a fork, still has its lock, ends.
		for deadline := time.Now().Add(time.Minute); !k.alive(); {
			if time.Now().After(deadline) {
				k.t.Fatalf("no agent stays:\n%s", k.told())
			}
		}
		if supervisor {
			k.awaitHold()
		}
		time.Sleep(time.Duration(k.random.IntN(300)) * time.Millisecond) // a moment that nobody can name
		switch {
		case supervisor:
			if pid := k.supervisor().Pid; pid != 0 { // else one is just being started
				_ = unix.Kill(pid, unix.SIGKILL)
				k.supervisors--
			}
		case k.agents > 0:
			k.awaitSupervisor() // while both are dead, nobody sees how a container ends
			k.stop(syscall.SIGKILL)
			k.agents--
		}
	}
}

func (k *keeper) awaitSupervisor() {
	k.t.Helper()
	for deadline := time.Now().Add(time.Minute); k.supervisor().Pid == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("no supervisor comes back:\n%s", k.told())
		}
	}
}

// awaitHold waits until the agent has the pipes of every container: from then on it may be alone.
func (k *keeper) awaitHold() {
	k.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if k.holdsAll() {
			return
		}
	}
	k.t.Fatalf("the agent does not hold what containers write:\n%s", k.told())
}

func (k *keeper) holdsAll() bool {
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", k.agent.cmd.Process.Pid))
	if err != nil {
		k.t.Fatal(err)
	}
	held := map[string]bool{}
	for _, link := range links {
		if path, linkErr := os.Readlink(link); linkErr == nil { // it was just closed
			held[path] = true
		}
	}
	pipes, err := filepath.Glob(filepath.Join(k.run(), "supervisor", "*", "stdout"))
	if err != nil {
		k.t.Fatal(err)
	}
	for _, pipe := range pipes {
		if !held[pipe] {
			return false
		}
	}
	return len(pipes) >= len(steady) && k.supervisor().Pid != 0
}

// await waits until an agent lives and ps shows what is wanted.
func (k *keeper) await(what string, wanted func(map[string]report.Row) bool) {
	k.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if k.alive() && wanted(k.rows()) {
			return
		}
		k.retry()
	}
	k.t.Fatalf("%s does not come:\n%s\n%s", what, k.do("ps", "-A", "--all").out, k.told())
}
