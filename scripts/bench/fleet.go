package main

import (
	"errors"
	"fmt"
	"time"
)

// times is how often a thing is done within a run where it is short: the run's figure is the median of them.
const times = 5

// fleet measures ours on one node: from nothing to n containers, what is done with them, and their removal.
func (b *bench) fleet() (err error) {
	n, r, err := b.newFleet("fleet")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.down()) }()
	if err := b.startAll(n, r, b.n, "start", ours, 1); err != nil {
		return err
	}
	if b.wants("memory") {
		if err := b.memoryOfOurs(n); err != nil {
			return err
		}
	}
	if b.wants("one") {
		if err := b.oneMore(n, r); err != nil {
			return err
		}
	}
	if b.wants("nothing") {
		if err := b.nothing(n, "nothing", "poll", ours); err != nil {
			return err
		}
	}
	if b.wants("change") {
		if err := b.changeOne(n, r); err != nil {
			return err
		}
	}
	if b.wants("push") {
		if err := b.pushOne(n, r); err != nil {
			return err
		}
	}
	if b.wants("removal") {
		return b.removeAll(n, r, b.n, "removal", ours, 1)
	}
	return nil
}

// newFleet makes a node that follows a bare repository on this machine, with one container in it: the image is here
// by then, as the peers have theirs.
func (b *bench) newFleet(name string) (_ *node, _ *repository, err error) {
	n, err := b.newNode(name)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.down())
		}
	}()
	r, err := b.newRepository(n.dir)
	if err != nil {
		return nil, nil, err
	}
	if err = r.commitPush(b.manifestsOf("warm", 1, false)); err != nil {
		return nil, nil, err
	}
	if err = n.start(r.bare, "1h"); err != nil {
		return nil, nil, err
	}
	_, err = n.sync()
	return n, r, err
}

// startAll measures how long count containers take from nothing to running, for each share of them.
func (b *bench) startAll(n *node, r *repository, count int, key, who string, share int) error {
	_, took, err := n.change(r, b.manifestsOf("c", count, false))
	if err != nil {
		return err
	}
	rows, err := n.ps()
	if err != nil {
		return err
	}
	if len(rows) != count+1 {
		return fmt.Errorf("%d containers run, want %d and the one before them", len(rows), count)
	}
	b.set(key, who, millis(took)/float64(share))
	return nil
}

func (b *bench) removeAll(n *node, r *repository, count int, key, who string, share int) error {
	_, took, err := n.change(r, b.manifestsOf("c", count, true))
	if err != nil {
		return err
	}
	rows, err := n.ps()
	if err != nil {
		return err
	}
	if len(rows) != 1 {
		return fmt.Errorf("%d containers run after the removal of all but one", len(rows))
	}
	b.set(key, who, millis(took)/float64(share))
	return nil
}

// memoryOfOurs takes the memory with all containers.
func (b *bench) memoryOfOurs(n *node) error {
	pids, err := n.pids()
	if err != nil {
		return err
	}
	all, err := pss(pids...)
	if err != nil {
		return err
	}
	b.set("memory", ours, all)
	return nil
}

// oneMore adds a container beside those that run.
func (b *bench) oneMore(n *node, r *repository) error {
	var steps, runs, backs []float64
	for i := range times {
		name := fmt.Sprintf("more%d", i)
		began, took, err := n.change(r, map[string]string{name + ".yaml": b.manifestOf(name, "1")})
		if err != nil {
			return err
		}
		step, err := n.lastStep(name)
		if err != nil {
			return err
		}
		rows, err := n.ps()
		if err != nil {
			return err
		}
		steps = append(steps, step)
		runs = append(runs, millis(rows[name].StartedAt.Sub(began)))
		backs = append(backs, millis(took))
	}
	b.set("one-step", ours, median(steps))
	b.set("one-runs", ours, median(runs))
	b.set("one-back", ours, median(backs))
	_, _, err := n.change(r, b.manifestsOf("more", times, true))
	return err
}

// nothing has the agent look where nothing is new. Its processor time is for the whole of it: the poll, and the answer to
// who asked for it.
func (b *bench) nothing(n *node, key, keyPoll, who string) error {
	agent := n.agent.Process.Pid
	var walls, polls []float64
	for range 2 * times {
		before, err := cpuTime(agent)
		if err != nil {
			return err
		}
		took, err := n.sync()
		if err != nil {
			return err
		}
		after, err := cpuTime(agent)
		if err != nil {
			return err
		}
		walls, polls = append(walls, millis(took)), append(polls, millis(after-before))
	}
	b.set(key, who, median(walls))
	b.set(keyPoll, who, median(polls))
	return nil
}

// changeOne changes one container after the other. The others have to stay what they are.
func (b *bench) changeOne(n *node, r *repository) error {
	var runs, backs []float64
	for i := range times {
		name := fmt.Sprintf("c%d", i%b.n)
		before, err := n.ps()
		if err != nil {
			return err
		}
		began, took, err := n.change(r, map[string]string{name + ".yaml": b.manifestOf(name, fmt.Sprint("changed ", i))})
		if err != nil {
			return err
		}
		after, err := n.ps()
		if err != nil {
			return err
		}
		for other, row := range before {
			if touched := after[other].Pid != row.Pid; touched != (other == name) {
				return fmt.Errorf("%s changed in the repository; %s was pid %d and is %d", name, other, row.Pid, after[other].Pid)
			}
		}
		runs = append(runs, millis(after[name].StartedAt.Sub(began)))
		backs = append(backs, millis(took))
	}
	b.set("change-runs", ours, median(runs))
	b.set("change-back", ours, median(backs))
	return nil
}

// pushOne is what a person does: git push, and then nothing.
func (b *bench) pushOne(n *node, r *repository) error {
	const name = "pushed"
	if _, _, err := n.change(r, map[string]string{name + ".yaml": b.manifestOf(name, "0")}); err != nil {
		return err
	}
	await, stop, err := n.events(name)
	if err != nil {
		return err
	}
	defer stop()
	if err = await("create took"); err != nil {
		return err
	}
	var runs []float64
	for i := range times {
		if err = r.commit(map[string]string{name + ".yaml": b.manifestOf(name, fmt.Sprint(i+1))}); err != nil {
			return err
		}
		began := time.Now()
		if err = r.push(); err != nil {
			return err
		}
		if err = await("replace took"); err != nil {
			return err
		}
		rows, psErr := n.ps()
		if psErr != nil {
			return psErr
		}
		runs = append(runs, millis(rows[name].StartedAt.Sub(began)))
	}
	b.set("push", ours, median(runs))
	_, _, err = n.change(r, map[string]string{name + ".yaml": ""})
	return err
}

// scale measures what has to stay linear, and from it what each more container costs in memory.
func (b *bench) scale() error {
	sizes, used := b.sizes(), []float64{}
	for _, count := range sizes {
		memory, err := b.scaleOf(count)
		if err != nil {
			return fmt.Errorf("with %d containers: %w", count, err)
		}
		used = append(used, memory)
	}
	b.set("memory-more", ours, (used[2]-used[1])/float64(sizes[2]-sizes[1]))
	return nil
}

func (b *bench) scaleOf(count int) (used float64, err error) {
	n, r, err := b.newFleet("scale")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, n.down()) }()
	if err = b.startAll(n, r, count, "scale-start", sized(count), count); err != nil {
		return 0, err
	}
	pids, err := n.pids()
	if err != nil {
		return 0, err
	}
	if used, err = pss(pids...); err != nil {
		return 0, err
	}
	b.set("scale-memory", sized(count), used)
	if err := b.nothing(n, "scale-nothing", "scale-poll", sized(count)); err != nil {
		return 0, err
	}
	return used, b.removeAll(n, r, count, "scale-removal", sized(count), count)
}
