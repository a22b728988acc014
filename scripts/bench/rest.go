package main

import (
	"errors"
	"time"
)

// idle measures the processor time of one minute at rest, ours with as many containers as Docker has beside it.
func (b *bench) idle() (err error) {
	n, r, err := b.newFleetOverHTTP("idle", "30s", b.n)
	if err != nil {
		return err
	}
	defer r.close()
	defer func() { err = errors.Join(err, n.down()) }()
	mine, err := n.pids()
	if err != nil {
		return err
	}
	others, err := pidsOf(dockersOwn()...)
	if err != nil {
		return err
	}
	const settle = 5 * time.Second // what start and memory figures left to do, such as a garbage collection
	time.Sleep(settle)
	of := map[string][]int{ours: mine, docker: others}
	before := map[string]time.Duration{}
	for who, pids := range of {
		if before[who], err = cpuTime(pids...); err != nil {
			return err
		}
	}
	time.Sleep(time.Minute)
	for who, pids := range of {
		after, err := cpuTime(pids...)
		if err != nil {
			return err
		}
		b.set("idle", who, millis(after-before[who]))
	}
	return nil
}

// disk counts what ours writes while it polls as often as it does in an hour, and nothing is new.
func (b *bench) disk() (err error) {
	n, r, err := b.newFleetOverHTTP("disk", "1s", b.sizes()[0])
	if err != nil {
		return err
	}
	defer r.close()
	defer func() { err = errors.Join(err, n.down()) }()
	pids, err := n.pids()
	if err != nil {
		return err
	}
	late := time.After(patience)
	polls := func(count int64) error {
		for until := r.server.requests.Load() + count; r.server.requests.Load() < until; time.Sleep(10 * time.Millisecond) {
			select {
			case <-n.ended:
				return errors.New("the agent ended")
			case <-late:
				return errors.New("the agent does not poll")
			default:
			}
		}
		return nil
	}
	if err = polls(8); err != nil { // what the start left to be written
		return err
	}
	before, err := diskWrites(pids...)
	if err != nil {
		return err
	}
	const hour = 120 // polls, every 30 s
	if err = polls(hour); err != nil {
		return err
	}
	after, err := diskWrites(pids...)
	if err != nil {
		return err
	}
	b.set("disk", ours, after-before)
	return nil
}

// served is a repository behind a server.
type served struct {
	*repository
	server *gitServer
}

func (r *served) close() {
	r.server.CloseClientConnections()
	r.server.Close()
}

// newFleetOverHTTP makes a node that follows a repository as one follows another machine's: by polling. All count
// containers run when it returns.
func (b *bench) newFleetOverHTTP(name, interval string, count int) (_ *node, _ *served, err error) {
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
	if err = r.commitPush(b.manifestsOf("c", count, false)); err != nil {
		return nil, nil, err
	}
	server, err := b.serveGit(n.dir)
	if err != nil {
		return nil, nil, err
	}
	served := &served{r, server}
	if err = n.start(server.URL+"/fleet.git", interval); err == nil {
		_, err = n.sync()
	}
	if err != nil {
		served.close()
	}
	return n, served, err
}
