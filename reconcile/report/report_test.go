package report

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

func now() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

func name(s string) manifest.Name {
	return manifest.Name{Namespace: manifest.DefaultNamespace, Name: s}
}

func workload(s, digest string) manifest.Workload {
	return manifest.Workload{
		Kind: manifest.KindContainer, Name: name(s), Digest: digest, Spec: manifest.Spec{Image: s + ":1"},
		Source: manifest.Position{File: s + ".yaml", Line: 3},
	}
}

func status(w manifest.Workload, state runtime.State) runtime.Status {
	origin, _ := w.Encode()
	s := runtime.Status{
		ID: runtime.ID(w.Name.Name + "-1"), State: state, Starts: 1, Hostname: w.Name.Name,
		Spec: runtime.Spec{
			Name: runtime.Name(w.Name), Origin: origin, OriginDigest: w.Digest, Revision: "old",
			Image: &runtime.Image{Ref: w.Spec.Image},
		},
	}
	if state == runtime.StateRunning {
		s.Pid, s.StartedAt = 42, now()
	}
	return s
}

func view(workloads []manifest.Workload, observed ...runtime.Status) View {
	set := &manifest.Set{Revision: manifest.Revision{Commit: "new", Author: "Ada", Subject: "s"}, Workloads: workloads}
	return View{
		Node: "edge-1", Observed: observed, Now: now(), Plan: plan.Plan{Steps: []plan.Step{}},
		State: journal.State{Accepted: set, AcceptedRevision: set.Revision},
		Fetch: Fetch{Revision: set.Revision, Time: now()},
	}
}

// The fields are the contract with scripts: one that goes or changes its name fails here.
func TestFieldsOfJSON(t *testing.T) {
	v := view([]manifest.Workload{workload("web", "d1")})
	desc, _ := Describe(v, nil, name("web"))
	for what, c := range map[string]struct {
		value any
		want  string
	}{
		"ps":                     {Rows(v, false)[0], "desiredRevision digest exitCode finishedAt health hostname id image imageDigest ip kind mac message name namespace nextRetryAt nextRunAt oomKilled pid ports ready reason restarts revision startedAt state"},
		"status":                 {StatusOf(v), "accepted applied containers fetched health instance lastFetch message nextFetch node plan reason source sync warnings"},
		"plan":                   {PlanOf(v.Plan), "blocked held id revision steps"},
		"plan step":              {PlanStep{}, "changes name op reason"},
		"history":                {journal.Entry{}, "author result revision steps subject time"},
		"history step":           {journal.StepEntry{}, "durationMs error imageDigest name op reason result"},
		"event":                  {Event{}, "message name reason time type"},
		"describe has all of ps": {desc, ""},
	} {
		b, err := json.Marshal(c.value)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		var keys []string
		for k := range m {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		if c.want != "" && strings.Join(keys, " ") != c.want {
			t.Errorf("%s: fields %v, want %s", what, keys, c.want)
		}
		if _, ok := m["desiredRevision"]; c.want == "" && !ok {
			t.Errorf("%s: %v", what, keys)
		}
	}
}

func TestRows(t *testing.T) {
	w, changed := workload("web", "d1"), workload("web", "d2")
	exited := status(w, runtime.StateExited)
	code, zero := 137, 0
	exited.ExitCode, exited.OOMKilled, exited.FinishedAt, exited.Starts = &code, true, now(), 3
	completed := status(w, runtime.StateExited)
	completed.ExitCode = &zero
	lost := status(w, runtime.StateExited)
	lost.Reason = runtime.ReasonSupervisorLost
	until := now().Add(10 * time.Second)
	held := func(v View, reason, message string) View {
		v.Plan.Held = []plan.Hold{{Name: w.Name, Reason: reason, Message: message, Until: until}}
		return v
	}
	working := func(v View, op plan.Op, phase Phase) View {
		v.Working = map[manifest.Name]Activity{w.Name: {Op: op, Phase: phase}}
		return v
	}
	wanted := []manifest.Workload{w}
	for what, c := range map[string]struct {
		view                            View
		state, health, reason, revision string
		sync                            string
	}{
		"runs":                 {view(wanted, status(w, runtime.StateRunning)), StateRunning, Healthy, "", "new", Synced},
		"not yet here":         {view(wanted), StatePending, Progressing, "", "", OutOfSync},
		"is being pulled":      {working(view(wanted), plan.OpCreate, PhasePreparing), StatePulling, Progressing, "", "", OutOfSync},
		"cannot be pulled":     {held(view(wanted), "ImagePullBackOff", "401"), StatePending, Degraded, "ImagePullBackOff", "", OutOfSync},
		"crashes":              {held(view(wanted, exited), "CrashLoopBackOff", "m"), StateExited, Degraded, "CrashLoopBackOff", "new", Synced},
		"out of memory":        {view(wanted, exited), StateExited, Degraded, ReasonOOMKilled, "new", Synced},
		"done":                 {view(wanted, completed), StateCompleted, Healthy, "", "new", Synced},
		"exit nobody saw":      {view(wanted, lost), StateExited, Unknown, runtime.ReasonSupervisorLost, "new", Synced},
		"update cannot be":     {held(view([]manifest.Workload{changed}, status(w, runtime.StateRunning)), "ErrImagePull", "x"), StateRunning, Degraded, "ErrImagePull", "old", OutOfSync},
		"update is under way":  {working(view([]manifest.Workload{changed}, status(w, runtime.StateRunning)), plan.OpReplace, PhasePreparing), StateRunning, Progressing, "", "old", OutOfSync},
		"is to go":             {view(nil, status(w, runtime.StateRunning)), StateRunning, Progressing, "", "old", OutOfSync},
		"is going":             {working(view(nil, status(w, runtime.StateRunning)), plan.OpRemove, PhaseStopping), StateRemoving, Progressing, "", "old", OutOfSync},
		"waits for dependency": {held(view(wanted), ReasonNotReady, "waits for db"), StatePending, Progressing, ReasonNotReady, "", OutOfSync},
	} {
		rows := Rows(c.view, false)
		if len(rows) != 1 {
			t.Fatalf("%s: %d rows", what, len(rows))
		}
		r := rows[0]
		if r.State != c.state || r.Health != c.health || r.Reason != c.reason || r.Revision != c.revision {
			t.Errorf("%s: %s %s %q revision %q, want %s %s %q %q", what, r.State, r.Health, r.Reason, r.Revision, c.state, c.health, c.reason, c.revision)
		}
		if s := StatusOf(c.view); s.Sync != c.sync || s.Health != c.health {
			t.Errorf("%s: status %s %s, want %s %s", what, s.Sync, s.Health, c.sync, c.health)
		}
	}
}

func TestTheInstanceThatServesIsShown(t *testing.T) {
	old, next := workload("web", "d1"), workload("web", "d2")
	serves, begun := status(old, runtime.StateRunning), status(next, runtime.StateCreated)
	begun.ID = "web-2"
	v := view([]manifest.Workload{next}, serves, begun)
	rows := Rows(v, false)
	if len(rows) != 1 || rows[0].ID != "web-1" {
		t.Fatalf("%+v", rows)
	}
	if all := Rows(v, true); len(all) != 2 || all[1].ID != "web-2" {
		t.Errorf("%+v", all)
	}
}

// The newest of those that run serves, whatever else is here of the name.
func TestInstances(t *testing.T) {
	w := workload("web", "d1")
	var list []runtime.Status
	for i, state := range []runtime.State{runtime.StateRunning, runtime.StateRunning, runtime.StateExited, runtime.StateExited} {
		s := status(w, state)
		s.ID, s.CreatedAt = runtime.ID(fmt.Sprintf("web-%d", i)), now().Add(time.Duration(i)*time.Second)
		list = append(list, s)
	}
	list = append(list, status(workload("other", "d1"), runtime.StateRunning))
	var got []runtime.ID
	for _, s := range Instances(list, w.Name) {
		got = append(got, s.ID)
	}
	if want := []runtime.ID{"web-1", "web-0", "web-3", "web-2"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if rows := Rows(view([]manifest.Workload{w}, list...), false); len(rows) != 2 || rows[1].ID != "web-1" {
		t.Errorf("ps shows another one than logs and exec take: %+v", rows)
	}
}

// Without an agent it is not known what an administrator allows: nothing is said to be refused for it.
func TestKept(t *testing.T) {
	w := workload("web", "d1")
	w.Spec = manifest.Spec{Capture: &manifest.Capture{Paths: []manifest.CapturePath{{From: "/bin/x", To: "/bin/x"}}}}
	set := manifest.Set{Revision: manifest.Revision{Commit: "new"}, NodeKnown: true, Workloads: []manifest.Workload{w}}
	kept := Kept{Node: "host", Instance: "i", Snapshot: journal.Snapshot{State: journal.State{Accepted: &set}, Notes: []string{"repaired"}}}
	v := kept.View(now())
	if len(v.Plan.Steps) != 1 || len(v.Plan.Held) != 0 || v.Node != "host" || v.Instance != "i" || len(v.Warnings) != 1 {
		t.Errorf("%+v", v)
	}
	if v := (Kept{Node: "host", Snapshot: journal.Snapshot{State: journal.State{Node: "kept"}}}).View(now()); v.Node != "kept" || len(v.Plan.Steps) != 0 {
		t.Errorf("nothing accepted yet: %+v", v)
	}
}

func TestAcceptedIsToldWithItsAuthor(t *testing.T) {
	for author, want := range map[string]string{"Ada": `c1 "s" by Ada is in force`, "": `c1 "s" is in force`} {
		rev := manifest.Revision{Commit: "c1", Subject: "s", Author: author}
		if e, ok := EventOf(journal.Record{Type: journal.TypeAccepted, Revision: &rev}); !ok || e.Message != want {
			t.Errorf("%q, want %q", e.Message, want)
		}
	}
}

func TestForeignContainersAreNotShown(t *testing.T) {
	v := view(nil, runtime.Status{ID: "x", State: runtime.StateRunning})
	if rows := Rows(v, true); len(rows) != 0 {
		t.Errorf("%+v", rows)
	}
	if s := StatusOf(v); s.Sync != Synced || s.Containers.Running != 0 {
		t.Errorf("%+v", s)
	}
}

func TestStatusSaysWhy(t *testing.T) {
	w := workload("web", "d1")
	base := func() View { return view([]manifest.Workload{w}, status(w, runtime.StateRunning)) }
	for what, c := range map[string]struct {
		change       func(v *View)
		sync, reason string
		message      string
	}{
		"suspended": {func(v *View) { v.State.Suspended = true }, Suspended, Suspended, "resume"},
		"blocked":   {func(v *View) { v.Plan.Blocked = &plan.Block{Reason: "Emptying", Message: "approve it"} }, Blocked, "Emptying", "approve"},
		"rejected": {func(v *View) {
			v.State.Rejected = journal.Rejection{Revision: manifest.Revision{Commit: "bad"}, Message: "a.yaml:3:1: no"}
		}, OutOfSync, ReasonRejected, "a.yaml:3:1"},
		"gone": {func(v *View) {
			v.Fetch.Error, v.Fetch.Gone, v.Fetch.Hint = "branch not found", "BranchNotFound", "push it"
		}, Blocked, "BranchNotFound", "push it"},
		"fetch fails": {func(v *View) { v.Fetch.Error, v.Fetch.Next = "refused", now() }, Synced, ReasonFetchFailed, "next try at 2026"},
		"behind":      {func(v *View) { v.Fetch.Revision.Commit = "newer" }, OutOfSync, "", ""},
		"no runtime":  {func(v *View) { v.ObservedError = "no supervisor" }, Unknown, "RuntimeUnavailable", "no supervisor"},
		"nothing yet": {func(v *View) { *v = View{} }, Unknown, "", ""},
	} {
		v := base()
		c.change(&v)
		s := StatusOf(v)
		if s.Sync != c.sync || s.Reason != c.reason || !strings.Contains(s.Message, c.message) {
			t.Errorf("%s: %s %q %q", what, s.Sync, s.Reason, s.Message)
		}
	}
}

func TestDescribe(t *testing.T) {
	old, next := workload("web", "d1"), workload("web", "d2")
	v := view([]manifest.Workload{next}, status(old, runtime.StateRunning))
	rev := manifest.Revision{Commit: "old", Author: "Grace", Subject: "before"}
	n := name("web")
	records := []journal.Record{
		{Time: now(), Type: journal.TypeAccepted, Commit: "old", Revision: &rev},
		{Time: now(), Type: journal.TypeIntent, Commit: "old", Name: &n, Op: plan.OpCreate, Reason: "new"},
		{Time: now(), Type: journal.TypeResult, Commit: "old", Name: &n, Op: plan.OpCreate, Result: journal.StepFailed, Error: "boom"},
	}
	d, ok := Describe(v, records, n)
	if !ok || d.MadeFrom.Author != "Grace" || d.DesiredCommit.Commit != "new" || d.Source.String() != "web.yaml:3" || d.RunningSpec == nil {
		t.Errorf("%+v", d)
	}
	if len(d.Events) != 2 || d.Events[1].Type != EventWarning || !strings.Contains(d.Events[1].Message, "boom") {
		t.Errorf("events %+v", d.Events)
	}
	if _, ok := Describe(v, nil, name("other")); ok {
		t.Error("something that is not there was described")
	}
	if h := HistoryOf(records, &n, plan.Ledger{}); len(h) != 1 || len(h[0].Steps) != 1 {
		t.Errorf("history %+v", h)
	}
	other := name("other")
	if h := HistoryOf(records, &other, plan.Ledger{}); len(h) != 0 {
		t.Errorf("history of another %+v", h)
	}
}

func TestReportsDoNotWrite(t *testing.T) {
	w := workload("web", "d1")
	v := view([]manifest.Workload{w}, status(w, runtime.StateRunning))
	before, _ := json.Marshal(v)
	Rows(v, true)
	StatusOf(v)
	Converged(v)
	Describe(v, nil, w.Name)
	if after, _ := json.Marshal(v); !reflect.DeepEqual(before, after) {
		t.Error("the view was changed")
	}
}

// A record that another release wrote in another way tells nothing, and breaks nothing.
func TestRecordOfAnotherRelease(t *testing.T) {
	if got := EventsOf([]journal.Record{{Type: journal.TypeAccepted, Commit: "c"}, {Type: "later"}}, nil); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestPublishedPorts shows where a container can be reached: only while it runs, and by IPv6 only where it has an address.
func TestPublishedPorts(t *testing.T) {
	w := workload("web", "d1")
	o := status(w, runtime.StateRunning)
	o.IP, o.IPv6, o.MAC = "10.77.0.5", "fd00::5", "02:00:0a:4d:00:05"
	o.Spec.Ports = []runtime.Port{
		{HostPort: 80, ContainerPort: 8080, Protocol: "TCP"},
		{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, ContainerPort: 5353, Protocol: "UDP"},
		{HostIP: netip.MustParseAddr("::1"), HostPort: 81, ContainerPort: 8081, Protocol: "TCP"},
	}
	for _, c := range []struct {
		name   string
		change func(*runtime.Status)
		want   []string
	}{
		{"running", func(*runtime.Status) {}, []string{"0.0.0.0:80->8080/tcp", "[::]:80->8080/tcp", "127.0.0.1:53->5353/udp", "[::1]:81->8081/tcp"}},
		{"no IPv6", func(o *runtime.Status) { o.IPv6 = "" }, []string{"0.0.0.0:80->8080/tcp", "127.0.0.1:53->5353/udp", "[::1]:81->8081/tcp"}},
		{"exited", func(o *runtime.Status) { o.State = runtime.StateExited }, []string{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := o
			c.change(&o)
			v := view([]manifest.Workload{w}, o)
			if row := Rows(v, false)[0]; !reflect.DeepEqual(row.Ports, c.want) || row.IP != o.IP || row.MAC != o.MAC {
				t.Errorf("row %+v, want ports %v", row, c.want)
			}
			if d, _ := Describe(v, nil, w.Name); d.IPv6 != o.IPv6 || !reflect.DeepEqual(d.Ports, c.want) {
				t.Errorf("description %+v", d)
			}
		})
	}
}

func TestDescribeRequests(t *testing.T) {
	w := workload("web", "d1")
	memory := manifest.Bytes(64 << 20)
	w.Spec.Resources = &manifest.Resources{Limits: &manifest.Limits{Memory: &memory}}
	d, _ := Describe(view([]manifest.Workload{w}), nil, w.Name)
	if d.Requests == nil || d.Requests.CPU != nil || d.Requests.Memory == nil || *d.Requests.Memory != memory {
		t.Errorf("requests %+v: want the limit", d.Requests)
	}
}
