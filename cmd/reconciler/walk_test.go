package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"reconciler/reconcile/report"
	"reconciler/reconcile/source/sourcetest"
	"reconciler/runtime/failpoint"
	"reconciler/runtime/runtimetest/failpoints"
	"reconciler/runtime/runtimetest/leak"
)

// TestWalk has the agent, the supervisor and the commands die at every failpoint of the source, goes on with what is left,
// and wants the same as from a run in which nobody died: the same containers, the same in the kernel, the same files. Who
// had no part in a step keeps his process. After each cycle of steps nothing may be left.
//
// The short form dies at a few points that the seed chooses; the long one at all, at some of them also later than the first
// time, and then at those that are passed only by who finds what another death left. A point that was never passed fails
// it, unless a comment there says `apart:` and why.
func TestWalk(t *testing.T) {
	points, problems, err := failpoints.Collect("../..")
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	random := dice(t)
	w := newWalk(t)
	w.cycle(nil) // nobody dies
	byPoint := w.reach()
	for _, p := range points {
		byChance := strings.HasPrefix(p.Apart, "by chance")
		if p.Apart != "" && !byChance && byPoint[p.Name] != nil {
			t.Errorf("%s: %q is said to be apart (%s), and is passed in %s", p.At, p.Name, p.Apart, byPoint[p.Name][0].step)
		}
	}
	deaths := w.plan(random, byPoint)
	if !*chaos {
		random.Shuffle(len(deaths), func(i, j int) { deaths[i], deaths[j] = deaths[j], deaths[i] })
		w.walk(deaths[:min(shortWalk, len(deaths))])
		return
	}
	w.walk(deaths)
	w.walk(w.second(points))
	for _, p := range points {
		if !w.died[p.Name] && p.Apart == "" {
			t.Errorf("%s: nobody died at %q", p.At, p.Name)
		}
	}
}

const (
	// shortWalk is at how many points the short form dies.
	shortWalk = 40
	// together is how many deaths there are in one step. Each is followed by a start, and the steps by a comparison.
	together = 3
)

// death is a point that is to be died at, in a step.
type death struct {
	step, point string
	pass        int    // which passing of it
	after       *death // which comes first, so that this one is passed at all
}

func (d death) String() string {
	text := fmt.Sprintf("%s at %q", d.step, d.point)
	if d.pass > 1 {
		text += fmt.Sprintf(", the %d. time", d.pass)
	}
	if d.after != nil {
		text += ", after " + d.after.String()
	}
	return text
}

// passing is that a step passes a point so many times.
type passing struct {
	step  string
	times int
}

// walk is a server on which the steps of scenario go round and round.
type walk struct {
	*keeper
	control failpoints.Control
	world   *world

	undisturbed map[string]outcome
	passed      map[string]map[string]int // by step, in the undisturbed cycle
	died        map[string]bool           // points
	led         map[string]death          // by a point that was passed only after a death: that death
	cycles      int
	spoiled     bool // something is wrong in this cycle: what comes next in it is a consequence
}

// outcome is what there is after a step.
type outcome struct {
	state []string
	pids  map[string]int
}

func newWalk(t *testing.T) *walk {
	s := newServerOf(t, failpointBinary, "")
	control := filepath.Join(s.dir, "points")
	if err := os.Mkdir(control, 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, failpoint.Variable+"="+control)
	world := newWorld(s)
	return &walk{
		keeper: s.keep(world.args()...), control: failpoints.Control(control), world: world,
		undisturbed: map[string]outcome{}, passed: map[string]map[string]int{}, died: map[string]bool{}, led: map[string]death{},
	}
}

// reach turns what each step passed into which steps pass a point.
func (w *walk) reach() map[string][]passing {
	byPoint := map[string][]passing{}
	for _, s := range scenario {
		for point, times := range w.passed[s.name] {
			byPoint[point] = append(byPoint[point], passing{s.name, times})
		}
	}
	return byPoint
}

// plan spreads the points evenly over the steps that pass them.
func (w *walk) plan(random *rand.Rand, byPoint map[string][]passing) []death {
	var deaths []death
	load := map[string]int{}
	for _, point := range slices.SortedFunc(maps.Keys(byPoint), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(byPoint[a]), len(byPoint[b])), strings.Compare(a, b)) // who has no choice comes first
	}) {
		where := byPoint[point]
		least := slices.MinFunc(where, func(a, b passing) int { return cmp.Compare(load[a.step], load[b.step]) })
		deaths = append(deaths, death{step: least.step, point: point, pass: 1})
		load[least.step]++
		total := 0
		for _, p := range where {
			total += p.times
		}
		for range min(2, total-1) { // what many pass is not the same each time
			p := where[random.IntN(len(where))]
			deaths = append(deaths, death{step: p.step, point: point, pass: 1 + random.IntN(p.times)})
			load[p.step]++
		}
	}
	return deaths
}

// second are the deaths at points that were passed only after another one.
func (w *walk) second(points []failpoints.Point) []death {
	var deaths []death
	for _, p := range points {
		if first, ok := w.led[p.Name]; ok && !w.died[p.Name] {
			deaths = append(deaths, death{step: first.step, point: p.Name, pass: 1, after: &first})
		}
	}
	return deaths
}

// walk goes round until all have died.
func (w *walk) walk(deaths []death) {
	queues := map[string][]death{}
	for _, d := range deaths {
		queues[d.step] = append(queues[d.step], d)
	}
	for left := len(deaths); left > 0; {
		now := map[string][]death{}
		for step, queue := range queues {
			n := min(together, len(queue))
			if n > 0 && queue[0].after != nil {
				n = 1
			}
			now[step], queues[step] = queue[:n], queue[n:]
			left -= n
		}
		w.cycle(now)
	}
}

// cycle makes every step once, in a new state directory, and takes everything down.
func (w *walk) cycle(deaths map[string][]death) {
	w.t.Helper()
	w.cycles++
	w.spoiled = false
	w.world.begin(w.cycles)
	var before outcome
	for _, s := range scenario {
		before = w.step(s, before, deaths[s.name])
	}
	w.stop(syscall.SIGTERM)
	left := leak.Wait(w.state(), w.run(), w.instance)
	for _, problem := range left {
		w.t.Errorf("after cycle %d, %v: leak: %s", w.cycles, deaths, problem)
	}
	if len(left) > 0 {
		w.t.FailNow() // it would be found after each cycle from now on
	}
	if err := os.RemoveAll(w.state()); err != nil {
		w.t.Fatal(err)
	}
}

// step makes one step, in which these deaths are to be died.
func (w *walk) step(s step, before outcome, deaths []death) outcome {
	w.t.Helper()
	s.begin(w)
	_, err := w.control.Passed() // what nobody was asked for
	for _, d := range deaths {
		for at := &d; at != nil && err == nil; at = at.after {
			err = w.control.Arm(at.point, at.pass)
		}
	}
	if err != nil {
		w.t.Fatal(err)
	}
	s.do(w)
	for _, d := range deaths {
		for at := &d; at != nil; at = at.after {
			died, disarmErr := w.control.Disarm(at.point)
			if disarmErr != nil {
				w.t.Fatal(disarmErr)
			}
			w.died[at.point] = w.died[at.point] || died
		}
	}
	after := w.look()
	passed, err := w.control.Passed()
	if err != nil {
		w.t.Fatal(err)
	}
	if w.passed[s.name] == nil {
		w.undisturbed[s.name], w.passed[s.name] = after, passed
	}
	if len(deaths) > 0 {
		for point := range passed {
			if _, known := w.led[point]; !known {
				w.led[point] = deaths[0]
			}
		}
	}
	if w.spoiled {
		return after
	}
	if want := w.undisturbed[s.name].state; !slices.Equal(after.state, want) {
		w.spoiled = true
		w.t.Errorf("cycle %d, %v: after %s it is not as if nobody had died:\n%s", w.cycles, deaths, s.name, difference(want, after.state))
	}
	for name, pid := range before.pids {
		if now, ok := after.pids[name]; ok && now != pid && !slices.Contains(s.touches, name) {
			w.spoiled = true
			w.t.Errorf("cycle %d, %v: %s ended, or was restarted, in %s: process %d is %d now", w.cycles, deaths, name, s.name, pid, now)
		}
	}
	if w.spoiled {
		w.t.Logf("%s\n%s", w.do("ps", "-A", "--all").out, w.told())
	}
	return after
}

// difference shows lines that are missing, and those that are too many.
func difference(want, got []string) string {
	var b strings.Builder
	count := map[string]int{}
	for _, line := range want {
		count[line]++
	}
	for _, line := range got {
		count[line]--
	}
	for _, line := range slices.Sorted(maps.Keys(count)) {
		if n := count[line]; n != 0 {
			fmt.Fprintf(&b, "%+d %s\n", -n, line)
		}
	}
	return b.String()
}

// look returns what there is: what ps says, what the kernel has of the instance, and the files. What is another in every run
// is taken out: ids, numbers, times.
func (w *walk) look() outcome {
	w.t.Helper()
	out := outcome{pids: map[string]int{}}
	ids := map[string]string{}
	for name, row := range w.rows() {
		out.pids[name] = row.Pid
		ids[row.ID] = name
		out.state = append(out.state, "ps: "+plainRow(row))
	}
	w.own(ids)
	for _, found := range leak.Find(w.state(), w.run(), w.instance) {
		// Processes come and go inside, and the agent that has just started may not hold anything yet. What they leave is
		// looked for after the cycle.
		if !strings.HasPrefix(found, "process ") && !strings.HasSuffix(found, ".tmp") && !strings.HasSuffix(found, "/holder.sock") {
			out.state = append(out.state, "kernel: "+w.normal(found, ids))
		}
	}
	err := filepath.WalkDir(w.state(), func(path string, _ fs.DirEntry, err error) error {
		rel, relErr := filepath.Rel(w.state(), path)
		switch {
		case err != nil:
			return err
		case relErr != nil:
			return relErr
		case rel == "repo.git/objects", rel == "journal", strings.HasPrefix(rel, "layers/") && strings.HasSuffix(rel, "/fs"), strings.HasSuffix(rel, "/data"):
			return fs.SkipDir // its content is not ours
		case strings.HasSuffix(rel, ".1.tmp"), rel == "images/tmp/1":
			w.t.Errorf("%s, of a process that died two days ago, is there still", rel)
			return nil
		case strings.HasSuffix(rel, ".tmp"), leftByWork.MatchString(rel), sets.MatchString(rel), output.MatchString(rel), generations.MatchString(rel): // of one that has just died and goes in time, or no matter
			return nil
		}
		out.state = append(out.state, "file: "+w.normal(rel, ids))
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	slices.Sort(out.state)
	return out
}

// own adds the ids of containers that ps shows no row of.
func (w *walk) own(ids map[string]string) {
	entries, _ := os.ReadDir(filepath.Join(w.state(), "containers")) // none: nothing was made yet
	for _, e := range entries {
		if ids[e.Name()] == "" {
			ids[e.Name()] = "OTHER"
		}
	}
}

// plainRow is a row without what is another in every run. How often a container was started depends on who died meanwhile.
func plainRow(r report.Row) string {
	code := "none"
	switch {
	case r.ExitCode != nil && r.State != report.StateRunning:
		code = strconv.Itoa(*r.ExitCode)
	case r.State == report.StateExited: // a start was begun, and it never ran
		r.State, r.IP = report.StateCreated, ""
	}
	return fmt.Sprintf("%s %s %s %q exit %s oom %t address %t ports %v image %q retry %t", r.FullName().Short(), r.State, r.Health, r.Reason,
		code, r.OOMKilled, r.IP != "", r.Ports, r.Image, r.NextRetryAt != nil)
}

var (
	leftByWork  = regexp.MustCompile(`^(images/leases|images/tmp|layers/tmp|volumes/\.removing)/|^volumes/(\.removing|default)$`)
	sets        = regexp.MustCompile(`^sets/`)                                                                 // of earlier commits: they are tidied in time
	output      = regexp.MustCompile(`^containers/[^/]+/((stdout|stderr|index)\.|exit\.json$|serving\.json$)`) // how many files depends on how fast it writes; there may have been a run before, or another that served
	generations = regexp.MustCompile(`^snapshots/[^/]+/files/[^/]+/\.\.[^/]+/`)                                // of files that were swapped: one before the present stays
	interfaces  = regexp.MustCompile(`interface \S+`)
	digests     = regexp.MustCompile(`[0-9a-f]{40,}`)
	numbers     = regexp.MustCompile(`[0-9]+`)
)

func (w *walk) normal(text string, ids map[string]string) string {
	for _, dir := range []string{w.state(), w.run(), w.dir} {
		text = strings.ReplaceAll(text, dir, "DIR")
	}
	text = strings.ReplaceAll(text, w.instance, "INSTANCE")
	for id, name := range ids {
		if id != "" {
			text = strings.ReplaceAll(text, id, "<"+name+">")
		}
	}
	text = interfaces.ReplaceAllString(text, "interface")
	text = digests.ReplaceAllString(text, "DIGEST")
	return numbers.ReplaceAllString(text, "N")
}

// sourceServer serves the walk's repository, so that there is a clone.
func sourceServer(t testing.TB, repo *sourcetest.Repo) string {
	return sourcetest.GitHTTP(t, repo.Root, sourcetest.HTTPOptions{}).Repo("fleet.git")
}
