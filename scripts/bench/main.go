package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience is how long anything may take; the longest, polls once a second, takes over two minutes. What hangs is a line of the page,
// and not the end of the rest.
const patience = 3 * time.Minute

// errHung is wrapped where a program took longer than that.
var errHung = errors.New("did not end in time")

// attempts is how often in one run one who hangs is measured.
const attempts = 3

// bench is one run of all of it.
type bench struct {
	dir        string // for everything that it makes; goes when it ends
	id         string // in the name of each cgroup that it makes
	reconciler string // our program
	compose5   string // compose v5; empty where it could not be had
	out, raw   string // the page that it writes, and the figures one by one
	n, runs    int
	run        int // from 1
	only       []string
	began      time.Time
	figures    *figures
	image      string // that ours runs, in the registry
	facts      facts
	patience   time.Duration // 0: patience; tests have less
	outputs    int
	said       []string // figures of this stage, for the terminal
}

func main() {
	var err error
	switch {
	case len(os.Args) > 3 && os.Args[1] == peak:
		err = runPeak(os.Args[2], os.Args[3], os.Args[4:]...)
	case len(os.Args) == 6 && os.Args[1] == loadOnce:
		err = runLoad(os.Args[2], os.Args[3], os.Args[4], os.Args[5])
	default:
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	b, err := fromEnvironment()
	if err == nil {
		b.all()
	}
	return err
}

// fromEnvironment takes what scripts/bench/run says.
func fromEnvironment() (*bench, error) {
	b := &bench{
		dir: os.Getenv("BENCH_DIR"), id: os.Getenv("BENCH_ID"), reconciler: os.Getenv("BENCH_RECONCILER"), compose5: os.Getenv("BENCH_COMPOSE5"),
		out: os.Getenv("BENCH_OUT"), raw: os.Getenv("BENCH_RAW"), only: strings.Fields(os.Getenv("BENCH_ROWS")),
		began: time.Now(), figures: newFigures(),
	}
	if b.dir == "" || b.id == "" || b.reconciler == "" || b.out == "" || b.raw == "" {
		return nil, errors.New("it is started by scripts/bench/run: use make bench")
	}
	if os.Getpid() > 10 {
		return nil, errors.New("it wants a pid namespace of its own: use make bench")
	}
	var err error
	if b.n, err = strconv.Atoi(cmp.Or(os.Getenv("BENCH_CONTAINERS"), "100")); err != nil || b.n < 2 {
		return nil, fmt.Errorf("BENCH_CONTAINERS %q: want a number of 2 or more", os.Getenv("BENCH_CONTAINERS"))
	}
	if b.runs, err = strconv.Atoi(cmp.Or(os.Getenv("BENCH_RUNS"), "5")); err != nil || b.runs < 1 {
		return nil, fmt.Errorf("BENCH_RUNS %q: want a number of 1 or more", os.Getenv("BENCH_RUNS"))
	}
	for _, id := range b.only {
		if known := func(r row) bool { return r.id == id }; !slices.ContainsFunc(append(rows(b.n), scales()...), known) {
			return nil, fmt.Errorf("BENCH_ROWS %q: no such row; there are start one nothing change push removal memory idle image git manifests disk scale", id)
		}
	}
	b.facts = b.findFacts(os.Getenv("BENCH_COMMIT"))
	return b, b.makeHome()
}

// all measures, in turns: each peer in each run, so that a slow minute of the machine does not fall on one alone.
func (b *bench) all() {
	fmt.Printf("%s, Linux %s, all data on %s\n%s\n", b.facts.machine, b.facts.kernel, b.facts.disk, strings.Join(b.facts.versions, "\n"))
	registry, err := b.startRegistry()
	if err == nil {
		defer func() { _ = registry.stop() }()
		b.image, err = b.smallImage(registryAt + "/busybox:1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: the image of our containers:", err)
		return
	}
	fleet := []string{"start", "one", "removal"}
	for b.run = 1; b.run <= b.runs; b.run++ {
		b.stage(ours, append(fleet, "nothing", "change", "push", "memory"), b.fleet)
		b.stage(runc, fleet, func() error { return b.bundles(runc, "/usr/sbin/runc") })
		b.stage(crun, fleet, func() error { return b.bundles(crun, "/usr/bin/crun") })
		b.stage(podman, append(fleet, "memory"), b.podman)
		b.stage(docker, append(fleet, "memory", "idle"), b.dockerRun)
		b.stage(compose1, []string{"start", "nothing", "change", "removal"}, func() error { return b.compose(compose1, "/usr/bin/docker-compose") })
		b.stage(compose5, []string{"start", "nothing", "change", "removal"}, func() error { return b.compose(compose5, b.compose5) })
		b.stage(pull, []string{"image"}, b.pulls)
		b.stage(git, []string{"git"}, b.gitRows)
		b.stage("manifests", []string{"manifests"}, b.manifests)
		b.stage("scale", []string{"scale", "memory"}, b.scale)
		if b.run == 1 { // a count, not a time
			b.stage("disk", []string{"disk"}, b.disk)
		}
	}
	fmt.Println()
	fmt.Println(b.report())
}

// stage measures one peer in one run, if any of its rows is wanted, and writes what there is by then. Its failure is a
// line of the page. Who hung is measured again, from the start, so that each row has a figure of each run.
func (b *bench) stage(who string, ids []string, measure func() error) {
	if !b.wants(ids...) {
		return
	}
	began := time.Now()
	err := measure()
	for try := 1; try < attempts && errors.Is(err, errHung); try++ {
		err = fmt.Errorf("measured again: %w", err)
		b.figures.fail(who, b.run, err)
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", who, err)
		b.said = nil
		err = measure()
	}
	if err != nil {
		b.figures.fail(who, b.run, err)
	}
	fmt.Printf("run %d of %d, %s: %.1f s%s\n", b.run, b.runs, who, time.Since(began).Seconds(), strings.Join(b.said, ""))
	b.said = nil
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", who, err)
	}
	if err := b.write(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}

func (b *bench) wants(ids ...string) bool {
	return len(b.only) == 0 || slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(b.only, id) })
}

// set keeps a figure of this run.
func (b *bench) set(key, who string, value float64) {
	b.figures.set(key, who, b.run, value)
	b.said = append(b.said, fmt.Sprintf("; %s %s", key, number(value)))
}

func (b *bench) sizes() []int { return []int{max(1, b.n/10), b.n, 5 * b.n} }

func (b *bench) report() string {
	at := b.facts
	at.runs, at.containers, at.took = min(b.run, b.runs), b.n, time.Since(b.began).Round(time.Second).String()
	unwanted := func(r row) bool { return !b.wants(r.id) } // measured on the way to another
	return report(b.figures, at, slices.DeleteFunc(rows(b.n), unwanted), slices.DeleteFunc(scales(), unwanted), b.sizes())
}

// write puts what was measured so far into the page and beside it. A page that is not there yet has nothing else.
func (b *bench) write() error {
	old, err := os.ReadFile(b.out)
	if errors.Is(err, os.ErrNotExist) {
		old, err = []byte(begin+"\n"+end+"\n"), nil
	}
	if err != nil {
		return err
	}
	text, err := page(string(old), b.report())
	if err != nil {
		return fmt.Errorf("%s: %w", b.out, err)
	}
	raw, err := b.figures.json()
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(b.out, []byte(text), 0o644), os.WriteFile(b.raw, raw, 0o644))
}

// makeHome makes the home of every program. Git has its author there, and cleans up nothing behind anybody's back.
func (b *bench) makeHome() error {
	home := filepath.Join(b.dir, "home")
	const config = "[user]\nname = a\nemail = a@example.com\n[gc]\nauto = 0\n[maintenance]\nauto = false\n[receive]\nautogc = false\n"
	return errors.Join(os.MkdirAll(home, 0o700), os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o644))
}

// environment is what every program is given: Debian's programs, and no settings of whoever runs it.
func (b *bench) environment(more ...string) []string {
	return append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + filepath.Join(b.dir, "home"), "TMPDIR=" + b.dir, "LANG=C.UTF-8"}, more...)
}

// do runs a program to its end, and returns what it printed and how long it took. An error has what it said.
func (b *bench) do(env []string, name string, args ...string) (string, time.Duration, error) {
	b.outputs++
	path := filepath.Join(b.dir, fmt.Sprintf("out-%d", b.outputs))
	// Not a pipe: a container that outlives the program may hold it open.
	file, err := os.Create(path)
	if err != nil {
		return "", 0, err
	}
	defer func() { _, _ = file.Close(), os.Remove(path) }() // nobody reads it again
	most := cmp.Or(b.patience, patience)
	ctx, cancel := context.WithTimeout(context.Background(), most)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = b.environment(env...), file, file, b.dir
	began := time.Now()
	err = cmd.Run()
	took := time.Since(began)
	text, readErr := os.ReadFile(path)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%s)", errHung, most)
	}
	if err != nil {
		command := strings.Join(append([]string{filepath.Base(name)}, args[:min(4, len(args))]...), " ")
		return "", took, fmt.Errorf("%s: %w: %s", command, err, lastOf(string(text)))
	}
	return string(text), took, readErr
}

// timed is do where only the time is asked for.
func (b *bench) timed(env []string, name string, args ...string) (time.Duration, error) {
	_, took, err := b.do(env, name, args...)
	return took, err
}

// lastOf is the end of what a program said, short enough for a line.
func lastOf(text string) string {
	text = oneLine(text)
	return text[max(0, len(text)-400):]
}
