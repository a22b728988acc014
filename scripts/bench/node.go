package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"reconciler/reconcile/journal"
)

// node is an instance of our program with directories of its own: an agent, and the supervisor that it starts.
type node struct {
	b      *bench
	dir    string
	env    []string
	agent  *exec.Cmd
	ended  chan struct{}
	starts int
}

// psRow is what scripts may rely on of `reconciler ps -o json`.
type psRow struct {
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Pid       int       `json:"pid"`
	StartedAt time.Time `json:"startedAt"`
}

func (b *bench) newNode(name string) (*node, error) {
	dir := filepath.Join(b.dir, name)
	instance := b.id + "-" + name
	n := &node{b: b, dir: dir, env: []string{
		"RECONCILER_STATE_DIR=" + filepath.Join(dir, "state"), "RECONCILER_RUN_DIR=" + runOf(dir),
		"RECONCILER_INSTANCE=" + instance, "RECONCILER_NODE=node", "RECONCILER_ALLOW_CAPTURE=/bin",
		"RECONCILER_MAX_REMOVE=100%", // the removal of all is what is measured
	}}
	return n, os.MkdirAll(dir, 0o755)
}

// start starts the agent and waits until it answers.
func (n *node) start(repo, interval string) error {
	n.starts++
	path := filepath.Join(n.dir, fmt.Sprintf("agent-%d.log", n.starts))
	log, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the agent has its own
	n.agent = exec.Command(n.b.reconciler, "agent", "--repo", repo, "--interval", interval)
	n.agent.Env, n.agent.Stdout, n.agent.Stderr = n.b.environment(n.env...), log, log
	if err := n.agent.Start(); err != nil {
		return err
	}
	n.ended = make(chan struct{})
	go func() {
		defer close(n.ended)
		_ = n.agent.Wait() // its log says why
	}()
	const tries = 600
	for range tries {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(text), "agent ready") {
			return nil
		}
		select {
		case <-n.ended:
			return fmt.Errorf("the agent ended: %s", lastOf(string(text)))
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("the agent does not get ready")
}

// stop ends the agent. The containers run on.
func (n *node) stop() error {
	if n.agent == nil {
		return nil
	}
	err := n.agent.Process.Signal(syscall.SIGTERM)
	<-n.ended
	n.agent = nil
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// down takes everything of the instance away.
func (n *node) down() error {
	_, _, err := n.reconciler("down", "--volumes", "--yes")
	return errors.Join(err, n.stop(), os.RemoveAll(n.dir), os.RemoveAll(runOf(n.dir)))
}

func (n *node) reconciler(args ...string) (string, time.Duration, error) {
	return n.b.do(n.env, n.b.reconciler, args...)
}

// sync has the agent converge, and returns how long the command took.
func (n *node) sync() (time.Duration, error) {
	return n.b.timed(n.env, n.b.reconciler, "sync", "--timeout", "5m")
}

// follow publishes a commit and has the agent converge. It returns when that began, and how long it took in all.
func (n *node) follow(publish func() error) (began time.Time, took time.Duration, err error) {
	began = time.Now()
	if err = publish(); err != nil {
		return began, 0, err
	}
	_, err = n.sync()
	return began, time.Since(began), err
}

// change commits files and follows.
func (n *node) change(r *repository, files map[string]string) (began time.Time, took time.Duration, err error) {
	if err = r.commit(files); err != nil {
		return began, 0, err
	}
	publish, err := r.stage()
	if err != nil {
		return began, 0, err
	}
	return n.follow(publish)
}

// ps returns the containers by name, all of which have to run.
func (n *node) ps() (map[string]psRow, error) {
	out, _, err := n.reconciler("ps", "-A", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list []psRow
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, err
	}
	byName := map[string]psRow{}
	for _, r := range list {
		if r.State != "Running" {
			return nil, fmt.Errorf("%s is %s: %w", r.Name, r.State, errNotRunning)
		}
		byName[r.Name] = r
	}
	return byName, nil
}

// lastStep returns how long the newest step on a container took, as the agent measured it.
func (n *node) lastStep(name string) (float64, error) {
	out, _, err := n.reconciler("history", name, "-o", "json")
	if err != nil {
		return 0, err
	}
	var entries []journal.Entry
	if err := json.Unmarshal([]byte(out), &entries); err != nil || len(entries) == 0 || len(entries[0].Steps) == 0 {
		return 0, fmt.Errorf("history of %s has no step: %w", name, err)
	}
	return float64(entries[0].Steps[0].DurationMs), nil
}

// pids are the agent and the supervisor: every process of ours but the containers' own.
func (n *node) pids() ([]int, error) {
	out, _, err := n.reconciler("version", "-o", "json")
	if err != nil {
		return nil, err
	}
	var v struct {
		Supervisors []struct {
			Instance string `json:"instance"`
			Pid      int    `json:"pid"`
		} `json:"supervisors"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return nil, err
	}
	for _, s := range v.Supervisors {
		if slices.Contains(n.env, "RECONCILER_INSTANCE="+s.Instance) {
			return []int{n.agent.Process.Pid, s.Pid}, nil
		}
	}
	return nil, fmt.Errorf("no supervisor of ours: %s", oneLine(out))
}

// events follows a container's events. What it returns waits for the next one with a word, and ends the following.
func (n *node) events(name string) (await func(word string) error, stop func(), err error) {
	cmd := exec.Command(n.b.reconciler, "events", "-f", name)
	cmd.Env = n.b.environment(n.env...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	late := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	lines := bufio.NewScanner(out)
	await = func(word string) error {
		for lines.Scan() {
			if strings.Contains(lines.Text(), word) {
				return nil
			}
		}
		return fmt.Errorf("events of %s ended without %q: %w", name, word, lines.Err())
	}
	return await, func() { _, _, _ = late.Stop(), cmd.Process.Kill(), cmd.Wait() }, nil
}
