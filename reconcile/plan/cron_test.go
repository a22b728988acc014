package plan_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

func cron(schedule string, change func(*manifest.Spec), command ...string) manifest.Workload {
	spec := does(command...)
	spec.Schedule = schedule
	if change != nil {
		change(&spec)
	}
	return kind(manifest.KindCronJob, named("cron"), spec)
}

// runs returns the times that were run so far, oldest first, with those that were run twice standing twice.
func (j *jobs) runs() []time.Time {
	var at []time.Time
	for _, c := range j.rt.Calls() {
		if c.Op == "create" {
			_, when, ok := plan.RunOf(manifest.Name(c.Name))
			if !ok {
				j.t.Fatalf("%s is not a run", c.Name)
			}
			at = append(at, when)
		}
	}
	return at
}

func (j *jobs) wantRuns(want ...string) {
	j.t.Helper()
	var got []string
	for _, at := range j.runs() {
		got = append(got, at.Format("02 15:04:05"))
	}
	if !slices.Equal(got, want) {
		j.t.Fatalf("ran at %q, want %q", got, want)
	}
}

// until lets time go by up to t, looking whenever the plan says.
func (j *jobs) until(t time.Time) {
	j.t.Helper()
	for j.clock.Before(t) {
		p := j.rest()
		next := t
		if !p.Wake.IsZero() && p.Wake.Before(t) {
			next = p.Wake
		}
		j.pass(max(time.Millisecond, next.Sub(j.clock)))
	}
	j.rest()
}

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", "2026-01-"+text)
	if err != nil {
		panic(err)
	}
	return t
}

func TestCronRuns(t *testing.T) {
	j := newJobs(t) // it is the 2nd, 12:00
	j.want("c1", cron("*/20 12-13 * * *", nil, "print", "hello"))
	j.until(at("02 15:00:00"))
	j.wantRuns("02 12:20:00", "02 12:40:00", "02 13:00:00", "02 13:20:00", "02 13:40:00")
	list := j.list()
	if len(list) != 3 { // as many as are kept
		t.Fatalf("%d containers", len(list))
	}
	if s := list[2].Spec; s.Name.Name != fmt.Sprintf("cron#%d", at("02 13:40:00").Unix()) || s.Hostname != "cron" {
		t.Errorf("%s, host name %s", s.Name.Name, s.Hostname)
	}
	if r := j.record(manifest.Name(list[2].Spec.Name)); r.Output != "hello" || r.Result != plan.JobSucceeded {
		t.Errorf("%+v", r)
	}
	if p := j.rest(); !p.Wake.Equal(at("03 12:00:00")) {
		t.Errorf("wakes at %v", p.Wake)
	}
}

func TestCronEvery(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@every 7m", nil, "exit", "0"))
	j.until(at("02 12:22:00"))
	first := j.runs()
	if len(first) != 3 || first[1].Sub(first[0]) != 7*time.Minute || first[0].Unix()%420 != 0 {
		t.Errorf("%v", first)
	}
}

func TestCronFailedRunsAreKeptApart(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@hourly", func(s *manifest.Spec) { s.BackoffLimit, s.FailedJobsHistoryLimit = new(int64(1)), new(int64(2)) }, "exit", "1"))
	j.until(at("02 16:30:00"))
	if n := len(j.list()); n != 2 || j.starts() != 8 {
		t.Errorf("%d containers, %d attempts: want 2, and 2 attempts each of 4", n, j.starts())
	}
	if p := j.rest(); len(p.Held) != 0 {
		t.Errorf("%s", render(p))
	}
}

func TestConcurrency(t *testing.T) {
	for policy, want := range map[manifest.ConcurrencyPolicy]struct {
		runs    []string
		running int
	}{
		"":                          {[]string{"02 13:00:00", "02 14:00:00", "02 15:00:00"}, 3},
		manifest.ConcurrencyForbid:  {[]string{"02 13:00:00"}, 1},
		manifest.ConcurrencyReplace: {[]string{"02 13:00:00", "02 14:00:00", "02 15:00:00"}, 1},
	} {
		t.Run(string(policy), func(t *testing.T) {
			j := newJobs(t)
			j.want("c1", cron("@hourly", func(s *manifest.Spec) { s.ConcurrencyPolicy = policy }, "run"))
			j.until(at("02 15:30:00"))
			j.wantRuns(want.runs...)
			if n := len(j.list()); n != want.running {
				t.Errorf("%d containers, want %d", n, want.running)
			}
			if policy == manifest.ConcurrencyForbid {
				if len(j.notes) != 2 || j.notes[1].Reason != plan.NoteSkipped {
					t.Fatalf("%+v", j.notes)
				}
				j.rt.Exit(j.list()[0].ID, 0)
				j.until(at("02 16:30:00"))
				j.wantRuns("02 13:00:00", "02 16:00:00")
			}
		})
	}
}

func TestCronMissedWhileDown(t *testing.T) {
	for _, c := range []struct {
		name     string
		deadline *int64
		want     []string
	}{
		{"one is caught up with", nil, []string{"02 13:00:00", "02 19:00:00", "02 20:00:00"}},
		{"late, and not too late", new(int64(1800)), []string{"02 13:00:00", "02 19:00:00", "02 20:00:00"}},
		{"too late", new(int64(600)), []string{"02 13:00:00", "02 20:00:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newJobs(t)
			j.want("c1", cron("@hourly", func(s *manifest.Spec) { s.StartingDeadlineSeconds = c.deadline }, "exit", "0"))
			j.until(at("02 13:10:00"))
			j.pass(6*time.Hour + 10*time.Minute)
			j.seen = plan.Moment{} // another agent
			j.until(at("02 20:10:00"))
			j.wantRuns(c.want...)
		})
	}
}

func TestCronSuspendAndResume(t *testing.T) {
	j := newJobs(t)
	suspend := func(on bool) manifest.Workload {
		return cron("@hourly", func(s *manifest.Spec) { s.Suspend = &on }, "exit", "0")
	}
	j.want("c1", suspend(true))
	j.until(at("02 15:10:00"))
	j.wantRuns()
	if p := j.rest(); !p.Wake.IsZero() {
		t.Errorf("wakes at %v", p.Wake)
	}
	j.want("c2", suspend(false))
	j.until(at("02 16:10:00"))
	j.wantRuns("02 15:00:00", "02 16:00:00")
}

func TestCronNewSchedule(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@hourly", nil, "exit", "0"))
	j.until(at("02 13:30:00"))
	j.want("c2", cron("15 * * * *", nil, "exit", "0")) // 13:15 is past, and nobody missed it
	j.until(at("02 14:30:00"))
	j.wantRuns("02 13:00:00", "02 14:15:00")
}

func TestCronRemoved(t *testing.T) {
	j := newJobs(t)
	other := workload(named("web"), does("run"))
	j.want("c1", cron("@hourly", nil, "run"), other)
	j.until(at("02 14:10:00"))
	j.want("c2", other)
	j.rest()
	j.rest()
	if list := j.list(); len(list) != 1 || len(j.in.Ledger.Jobs)+len(j.in.Ledger.Crons) != 0 {
		t.Errorf("%d containers, ledger %+v", len(list), j.in.Ledger)
	}
}

// TestCronRunGoesOn has a run end as what it began as, whatever its CronJob is by then.
func TestCronRunGoesOn(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@hourly", nil, "run", "old"))
	j.until(at("02 13:10:00"))
	j.want("c2", cron("@hourly", nil, "exit", "0"))
	j.until(at("02 14:10:00"))
	list := j.list()
	if len(list) != 2 || list[0].State != runtime.StateRunning || list[0].Spec.Command[1] != "old" || list[1].Spec.Command[0] != "exit" {
		t.Fatalf("%+v", list)
	}
}

// TestLostLedger goes on from what is here: no run that has a container is run again.
func TestLostLedger(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@hourly", nil, "exit", "0"))
	j.until(at("02 13:00:00"))
	j.in.Ledger = plan.Ledger{}
	j.clock = j.clock.Add(-time.Second)
	j.until(at("02 14:10:00"))
	j.wantRuns("02 13:00:00", "02 14:00:00")
}

func TestCronWaitsForTheClock(t *testing.T) {
	j := newJobs(t)
	j.in.NotBefore = at("01 00:00:00")
	j.clock = time.Date(1970, 1, 1, 0, 0, 10, 0, time.UTC) // a board without a clock
	j.want("c1", cron("* * * * *", nil, "exit", "0"))
	for range 10 {
		j.pass(time.Minute)
		if p := j.rest(); len(p.Held) != 1 || p.Held[0].Reason != plan.ReasonClock || !strings.Contains(p.Held[0].Message, "1970") {
			t.Fatalf("%s", render(p))
		}
	}
	j.wantRuns()
	j.clock = at("02 12:00:30") // set at last: it missed nothing, since it is new
	j.until(at("02 12:01:30"))
	j.wantRuns("02 12:01:00")
	// The next boot is in 1970 again; once the clock is set, one run is caught up with.
	j.clock, j.boot, j.bootID = time.Date(1970, 1, 1, 0, 0, 10, 0, time.UTC), time.Second, "boot-2"
	j.rest()
	j.pass(time.Minute)
	j.rest()
	j.clock = at("02 12:10:30")
	j.until(at("02 12:11:30"))
	j.wantRuns("02 12:01:00", "02 12:10:00", "02 12:11:00")
}

func TestCronClockSteps(t *testing.T) {
	j := newJobs(t)
	keepNone := func(s *manifest.Spec) { s.SuccessfulJobsHistoryLimit = new(int64(0)) }
	j.want("c1", cron("@hourly", keepNone, "exit", "0"))
	j.until(at("02 14:10:00"))
	j.clock = at("02 12:30:00") // back: what ran does not again
	j.until(at("02 15:10:00"))
	j.wantRuns("02 13:00:00", "02 14:00:00", "02 15:00:00")
	j.clock = at("12 03:30:00") // forward: one is caught up with
	j.until(at("12 04:10:00"))
	j.clock = at("02 15:10:00") // and back: it does not wait for the 12th
	j.until(at("02 16:10:00"))
	j.wantRuns("02 13:00:00", "02 14:00:00", "02 15:00:00", "12 03:00:00", "12 04:00:00", "02 16:00:00")
	j.clock = at("12 02:30:00")
	j.until(at("12 05:10:00"))
	j.wantRuns("02 13:00:00", "02 14:00:00", "02 15:00:00", "12 03:00:00", "12 04:00:00", "02 16:00:00", "12 02:00:00", "12 05:00:00")
}

// TestLateLook has every run start that came due while the server was busy, and only one after a step of the clock.
func TestLateLook(t *testing.T) {
	j := newJobs(t)
	j.want("c1", cron("@every 1s", nil, "exit", "0"))
	j.until(at("02 12:00:02"))
	j.pass(4 * time.Second)
	j.rest()
	j.wantRuns("02 12:00:01", "02 12:00:02", "02 12:00:03", "02 12:00:04", "02 12:00:05", "02 12:00:06")
	j.clock = j.clock.Add(4 * time.Second)
	j.rest()
	j.wantRuns("02 12:00:01", "02 12:00:02", "02 12:00:03", "02 12:00:04", "02 12:00:05", "02 12:00:06", "02 12:00:10")
}

// TestCronProperties holds over any steps of the clock, suspensions, deaths of the agent and runs that take long: no time is run
// twice, a step causes one catch-up at most, and no more run at a time than the policy allows.
func TestCronProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		j := newJobs(t)
		policy := rapid.SampledFrom([]manifest.ConcurrencyPolicy{"Allow", "Forbid", "Replace"}).Draw(rt, "policy")
		schedule := rapid.SampledFrom([]string{"@every 1m", "*/7 * * * *", "@hourly", "30 2 * * *", "@every 1h7m"}).Draw(rt, "schedule")
		command := rapid.SampledFrom([]string{"run", "exit"}).Draw(rt, "command")
		zone := rapid.SampledFrom([]string{"", "Europe/Berlin", "America/St_Johns"}).Draw(rt, "zone")
		j.clock = time.Date(2026, 3, 28, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, int64(300*24*time.Hour)).Draw(rt, "start")))
		j.want("c1", cron(schedule, func(s *manifest.Spec) {
			s.ConcurrencyPolicy, s.TimeZone, s.SuccessfulJobsHistoryLimit = policy, zone, new(int64(0))
		}, command, "0"))
		j.did = func(plan.Step, error) {
			running := 0
			for _, s := range j.list() {
				if s.State == runtime.StateRunning {
					running++
				}
			}
			if policy != manifest.ConcurrencyAllow && running > 1 {
				rt.Fatalf("%d run at a time, in spite of %s", running, policy)
			}
		}
		j.rest()
		steps := 0
		for range 30 {
			before, allowed := len(j.runs()), 100000
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 0:
				if steps++; steps < 8 { // as many are remembered
					j.clock = j.clock.Add(time.Duration(rapid.OneOf(rapid.Int64Range(-int64(3*time.Hour), int64(3*time.Hour)), rapid.Int64Range(-int64(1000*time.Hour), int64(1000*time.Hour))).Draw(rt, "step")))
					allowed = 1
				}
			case 1:
				j.pass(time.Duration(rapid.Int64Range(0, int64(100*time.Hour)).Draw(rt, "sleep"))) // suspended
				allowed = 1
			case 2:
				j.seen, allowed = plan.Moment{}, 1
			case 3:
				for _, s := range j.list() {
					j.rt.Exit(s.ID, 0)
				}
			default:
				j.until(j.clock.Add(time.Duration(rapid.Int64Range(0, int64(3*time.Hour)).Draw(rt, "time"))))
			}
			j.rest()
			if n := len(j.runs()) - before; n > allowed {
				rt.Fatalf("%d runs are caught up with", n)
			}
		}
		seen := map[time.Time]bool{}
		for _, at := range j.runs() {
			if seen[at] {
				rt.Fatalf("%v was run twice", at)
			}
			seen[at] = true
		}
	})
}

// TestDaylightSaving goes over both changes of a year: what the clock on the wall leaves out is run at its end, what it shows
// twice is run once, and what is every so often goes by the time that passes.
func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct {
		name, schedule, zone, from string // and half a day on
		want                       []string
	}{
		{"left out", "30 2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", []string{"03:00+02:00"}},
		{"left out twice", "*/20 2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", []string{"03:00+02:00"}},
		{"left out, and there", "0,30 2-3 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", []string{"03:00+02:00", "03:30+02:00"}},
		{"before", "59 1 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", []string{"01:59+01:00"}},
		{"after", "0 3 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", []string{"03:00+02:00"}},
		{"not that day", "30 2 * * 1", "Europe/Berlin", "2026-03-28T22:00:00Z", nil},
		{"every hour, forward", "15 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", []string{
			"01:15+01:00", "03:15+02:00", "04:15+02:00", "05:15+02:00", "06:15+02:00", "07:15+02:00", "08:15+02:00", "09:15+02:00",
			"10:15+02:00", "11:15+02:00", "12:15+02:00", "13:15+02:00",
		}},
		{"twice", "30 2 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", []string{"02:30+02:00"}},
		{"twice, often", "*/30 2,3 * * *", "Europe/Berlin", "2026-10-24T22:00:00Z", []string{"02:00+02:00", "02:30+02:00", "03:00+01:00", "03:30+01:00"}},
		{"every other hour, back", "0 */2 * * *", "Europe/Berlin", "2026-10-24T22:30:00Z", []string{
			"02:00+02:00", "04:00+01:00", "06:00+01:00", "08:00+01:00", "10:00+01:00",
		}},
		{"every hour, back", "15 * * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", []string{
			"01:15+02:00", "02:15+02:00", "02:15+01:00", "03:15+01:00", "04:15+01:00", "05:15+01:00", "06:15+01:00", "07:15+01:00",
			"08:15+01:00", "09:15+01:00", "10:15+01:00", "11:15+01:00",
		}},
		{"half an hour left out", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00Z", []string{"02:30+11:00"}},
		{"half an hour twice", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00:00Z", []string{"01:45+11:00"}},
		{"midnight left out", "30 0 * * *", "America/Santiago", "2026-09-05T22:00:00Z", []string{"01:00-03:00"}},
		{"no such thing", "30 2 * * *", "", "2026-03-28T22:00:00Z", []string{"02:30Z"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			zone, err := time.LoadLocation(c.zone)
			if err != nil {
				t.Fatal(err)
			}
			j := newJobs(t)
			j.clock = from
			j.want("c1", cron(c.schedule, func(s *manifest.Spec) { s.TimeZone = c.zone }, "exit", "0"))
			j.until(from.Add(12 * time.Hour))
			var got []string
			for _, at := range j.runs() {
				got = append(got, at.In(zone).Format("15:04Z07:00"))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("ran at %q, want %q", got, c.want)
			}
		})
	}
}
