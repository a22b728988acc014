package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// jobs is a world in which work comes to an end, with both clocks.
type jobs struct {
	*world

	boot   time.Duration
	bootID string
	seen   plan.Moment
	notes  []plan.Note
}

func newJobs(t testing.TB) *jobs {
	return &jobs{world: newWorld(t), boot: time.Hour, bootID: "boot-1"}
}

// kind returns a workload of the kind with its digest.
func kind(k manifest.Kind, n manifest.Name, spec manifest.Spec) manifest.Workload {
	w := workload(n, spec)
	w.Kind = k
	w.Digest += string(k)
	return w
}

func job(spec manifest.Spec) manifest.Workload { return kind(manifest.KindJob, named("job"), spec) }

// image returns a spec of a container that does what Commands of the fake know.
func does(command ...string) manifest.Spec { return manifest.Spec{Image: "x", Command: command} }

func (j *jobs) clockNow() plan.Clock {
	return plan.Clock{Now: j.clock, Boot: j.boot, BootID: j.bootID}
}

// pass lets time go by.
func (j *jobs) pass(d time.Duration) { j.clock, j.boot = j.clock.Add(d), j.boot+d }

// turn is what the loop does in one.
func (j *jobs) turn() plan.Plan {
	j.t.Helper()
	j.advance()
	j.in.Ledger = j.in.Ledger.Clone()
	j.in.Boot, j.in.BootID = j.boot, j.bootID
	p := j.compute()
	before := j.in.Accepted
	j.apply(p)
	if now := j.in.Accepted; before == nil || now.Revision.Commit != before.Revision.Commit {
		j.note(j.in.Ledger.Advance(plan.Advance{
			Set: now, Observed: j.in.Observed, Clock: j.clockNow(), NotBefore: j.in.NotBefore, NewNode: before == nil,
		}))
		p.Steps = append(p.Steps, plan.Step{}) // has the loop look again
	}
	return p
}

func (j *jobs) advance() {
	a := plan.Advance{Set: j.in.Accepted, Observed: j.list(), Clock: j.clockNow(), NotBefore: j.in.NotBefore, Seen: j.seen}
	j.seen = a.Clock.Moment()
	j.note(j.in.Ledger.Advance(a))
}

func (j *jobs) note(notes []plan.Note, _ bool) { j.notes = append(j.notes, notes...) }

// rest takes turns until nothing is to be done now.
func (j *jobs) rest() plan.Plan {
	j.t.Helper()
	for range 50 {
		p := j.turn()
		for name, id := range j.in.Ledger.Unread(j.in.Observed) {
			j.in.Ledger.Remember(name, id, strings.Join(j.rt.Output(id), "\n"))
			p.Steps = append(p.Steps, plan.Step{Name: name}) // has the loop look again
		}
		if len(p.Steps) == 0 {
			return p
		}
		j.pass(time.Millisecond)
	}
	j.t.Fatal("it never rests")
	return plan.Plan{}
}

// starts returns how often anything was started.
func (j *jobs) starts() int {
	n := 0
	for _, c := range j.rt.Calls() {
		if c.Op == "start" {
			n++
		}
	}
	return n
}

func (j *jobs) wantStarts(n int) {
	j.t.Helper()
	if got := j.starts(); got != n {
		j.t.Fatalf("started %d times, want %d: %v", got, n, j.rt.Calls())
	}
}

func (j *jobs) record(n manifest.Name) plan.JobRecord { return j.in.Ledger.Jobs[n] }

func (j *jobs) wantResult(want plan.JobResult, reason string) {
	j.t.Helper()
	if r := j.record(named("job")); r.Result != want || r.Reason != reason {
		j.t.Fatalf("%s %s, want %s %s: %+v", r.Result, r.Reason, want, reason, r)
	}
}

func TestJobRunsOnce(t *testing.T) {
	j := newJobs(t)
	j.want("c1", job(does("print", "done")))
	j.rest()
	j.wantResult(plan.JobSucceeded, "")
	if r := j.record(named("job")); r.Output != "done" || r.ExitCode == nil || *r.ExitCode != 0 || r.Commit != "c1" {
		t.Errorf("%+v", r)
	}
	for what, happens := range map[string]func(){
		"time":      func() { j.pass(1000 * time.Hour) },
		"a reboot":  func() { j.rt.Reboot(); j.boot, j.bootID = time.Second, "boot-2" },
		"its loss":  func() { j.remove("job") },
		"a comment": func() { j.want("c2", job(does("print", "done"))) },
		"a label": func() {
			w := job(does("print", "done"))
			w.Labels, w.Digest = map[string]string{"a": "b"}, "other"
			j.want("c3", w)
		},
		"a policy": func() {
			spec := does("print", "done")
			spec.BackoffLimit, spec.ActiveDeadlineSeconds = new(int64(2)), new(int64(1))
			j.want("c4", job(spec))
		},
	} {
		happens()
		j.rest()
		if j.wantResult(plan.JobSucceeded, ""); j.starts() != 1 {
			t.Fatalf("%s has it run again", what)
		}
	}
}

// remove takes the containers of a name away, as somebody else would.
func (j *jobs) remove(name string) {
	for _, s := range j.list() {
		if s.Spec.Name.Name == name {
			if err := j.rt.Remove(j.t.Context(), s.ID); err != nil {
				j.t.Fatal(err)
			}
		}
	}
}

func TestChangedJobRunsAgain(t *testing.T) {
	j := newJobs(t)
	one, two := job(does("print", "1")), job(does("run"))
	j.want("c1", one)
	j.rest()
	j.want("c2", two)
	j.rest()
	j.wantResult("", "")
	j.wantStarts(2)
	j.want("c3", job(does("exit", "0", "again"))) // while it runs: that run is stopped
	j.rest()
	j.wantResult(plan.JobSucceeded, "")
	j.wantStarts(3)
	if list := j.list(); len(list) != 1 {
		t.Errorf("%d containers", len(list))
	}
	j.want("c4", one) // that one ran here
	j.rest()
	j.wantResult(plan.JobSucceeded, "")
	j.wantStarts(3)
	j.want("c5", two) // that one never ended
	j.rest()
	j.wantResult("", "")
	j.wantStarts(4)
	if r := j.record(named("job")); r.Attempts() != 1 || r.Failures != 0 {
		t.Errorf("the runs of other specs are counted: %+v", r)
	}
}

func TestJobThatIsGoneAndBack(t *testing.T) {
	j := newJobs(t)
	other := workload(named("other"), does("run"))
	j.want("c1", job(does("print", "1")), other)
	j.rest()
	j.want("c2", other)
	j.rest()
	if len(j.list()) != 1 || len(j.in.Ledger.Jobs) != 0 {
		t.Fatalf("%d containers, ledger %+v", len(j.list()), j.in.Ledger)
	}
	j.want("c3", job(does("print", "1")), other)
	j.rest()
	j.wantResult(plan.JobSucceeded, "")
	j.wantStarts(2)
}

func TestJobIsTriedAgain(t *testing.T) {
	j := newJobs(t)
	spec := does("exit", "7")
	spec.BackoffLimit = new(int64(3))
	j.want("c1", job(spec))
	var delays []time.Duration
	for {
		p := j.rest()
		if j.record(named("job")).Result != "" {
			break
		}
		if len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonCrashLoop || !p.Wake.Equal(p.Held[0].Until) {
			t.Fatalf("%s", render(p))
		}
		left := p.Wake.Sub(j.clock)
		delays = append(delays, left.Round(time.Second))
		j.pass(left - time.Millisecond)
		if before := j.starts(); len(j.turn().Steps) > 0 || j.starts() != before {
			t.Fatal("tried too early")
		}
		j.pass(time.Millisecond)
	}
	if want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second}; !slices.Equal(delays, want) {
		t.Errorf("delays %v, want %v", delays, want)
	}
	j.wantResult(plan.JobFailed, plan.ReasonBackoffLimit)
	j.wantStarts(4)
	if p := j.rest(); len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonBackoffLimit || !strings.Contains(p.Held[0].Message, "code 7") {
		t.Errorf("%s", render(p))
	}
	if !j.in.Ledger.Again(job(spec), j.clockNow()) {
		t.Fatal("it cannot run again")
	}
	j.rest()
	j.wantStarts(5)
	j.wantResult("", "")
}

// TestLostAttempts has attempts end with nobody seeing it: none is taken for a success, and each counts.
func TestLostAttempts(t *testing.T) {
	for name, lose := range map[string]func(j *jobs){
		"reboot":    func(j *jobs) { j.rt.Reboot(); j.boot, j.bootID = time.Second, j.bootID+"'" },
		"container": func(j *jobs) { j.remove("job") },
	} {
		t.Run(name, func(t *testing.T) {
			j := newJobs(t)
			spec := does("run")
			spec.BackoffLimit = new(int64(2))
			j.want("c1", job(spec))
			for n := 1; n <= 3; n++ {
				j.rest()
				j.wantStarts(n)
				lose(j)
				j.rest()
				j.pass(time.Minute)
			}
			j.rest()
			j.wantResult(plan.JobFailed, plan.ReasonBackoffLimit)
			if r := j.record(named("job")); r.ExitCode != nil {
				t.Errorf("exit code %d", *r.ExitCode)
			}
			j.wantStarts(3)
		})
	}
}

// TestDeadline is over by the clock that nobody can set.
func TestDeadline(t *testing.T) {
	j := newJobs(t)
	spec := does("run")
	spec.ActiveDeadlineSeconds = new(int64(60))
	j.want("c1", job(spec))
	j.rest()
	j.clock = j.clock.AddDate(10, 0, 0)
	j.rest()
	j.wantResult("", "")
	j.clock = j.clock.AddDate(-56, 0, 0)
	p := j.rest()
	j.wantResult("", "")
	if left := p.Wake.Sub(j.clock).Round(time.Second); left != time.Minute {
		t.Errorf("looks again in %v", left)
	}
	j.pass(time.Minute)
	j.rest()
	j.wantResult(plan.JobFailed, plan.ReasonJobDeadline)
	if s := j.list()[0]; s.State != runtime.StateExited {
		t.Errorf("it is %s", s.State)
	}
	j.wantStarts(1)
	if r := j.record(named("job")); r.ExitCode == nil || !r.Read {
		t.Errorf("%+v", r)
	}
}

func TestTTL(t *testing.T) {
	for _, ttl := range []int64{0, 60} {
		t.Run(fmt.Sprint(ttl), func(t *testing.T) {
			j := newJobs(t)
			spec := does("print", "secret")
			spec.TTLSecondsAfterFinished = &ttl
			j.want("c1", job(spec))
			p := j.rest()
			if ttl > 0 {
				if j.record(named("job")).Output != "secret" || len(j.list()) != 1 {
					t.Fatalf("%+v", j.record(named("job")))
				}
				j.pass(p.Wake.Sub(j.clock))
				j.rest()
			}
			if r := j.record(named("job")); r.Output != "" || len(j.list()) != 0 || r.Result != plan.JobSucceeded {
				t.Fatalf("%d containers, %+v", len(j.list()), r)
			}
			j.pass(time.Hour)
			j.rest()
			j.wantStarts(1)
		})
	}
}

func TestOnNewNode(t *testing.T) {
	spec := does("run")
	spec.OnNewNode = manifest.OnNewNodeSkip
	j := newJobs(t)
	j.want("c1", job(spec))
	j.rest()
	j.wantResult(plan.JobSkipped, "")
	spec.Command = []string{"run", "2"}
	j.want("c2", job(spec)) // the server is new no more
	j.rest()
	j.wantResult("", "")
	j.wantStarts(1)
}

func TestJobThatIsOverIsNoObstacle(t *testing.T) {
	j := newJobs(t)
	spec := does("run")
	spec.DependsOn = []manifest.Dependency{{Name: "job"}}
	ttl := int64(0)
	done := does("exit", "0")
	done.TTLSecondsAfterFinished = &ttl
	j.want("c1", job(done), workload(named("web"), spec))
	j.rest()
	if list := j.list(); len(list) != 1 || list[0].Spec.Name.Name != "web" || list[0].State != runtime.StateRunning {
		t.Fatalf("%+v", list)
	}
	j.remove("web")
	j.rest()
	if list := j.list(); len(list) != 1 {
		t.Fatal("a Job that is gone, its work done, holds back who depends on it")
	}
}

// TestStartUnderWay takes what a container looks like while it is being started for no end of a Job, nor a start that was cut short
// for an attempt.
func TestStartUnderWay(t *testing.T) {
	j := newJobs(t)
	spec := does("run")
	spec.BackoffLimit = new(int64(0))
	j.want("c1", job(spec))
	j.rest()
	half := j.list()
	half[0].State, half[0].Pid, half[0].Starts, half[0].Reason = runtime.StateExited, 0, 2, runtime.ReasonStartFailed
	for _, flights := range []map[manifest.Name]plan.InFlight{{named("job"): {Op: plan.OpRestart}}, nil} {
		j.in.Ledger.Advance(plan.Advance{Set: j.in.Accepted, Observed: half, Clock: j.clockNow(), InFlight: flights})
		j.wantResult("", "")
	}
	j.in.Observed, j.in.Now = half, j.clock
	if p := plan.Compute(j.in); len(p.Steps) != 1 || p.Steps[0].Op != plan.OpRestart {
		t.Fatalf("%s", render(p))
	}
}
