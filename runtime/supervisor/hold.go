package supervisor

import (
	"context"
	"net"
	"os"
	"sync"
	"time"

	"reconciler/runtime"
)

const (
	// lendTimeout is how long one who holds may take to read; then it holds no more, and may ask again.
	lendTimeout = 2 * time.Second
	// giveTimeout bounds how long a supervisor that starts waits for who holds.
	giveTimeout = 10 * time.Second
)

// runRef names one run of a container: with its start time a pid is unique, until the next boot.
type runRef struct {
	ID        runtime.ID `json:"id"`
	Pid       int        `json:"pid"`
	StartTime uint64     `json:"startTime"`
}

// lent is one message to who holds, or from it. Its descriptors are the pidfd of the run's process 1 and, where its output
// is being kept, the FIFOs of stdout and stderr.
type lent struct {
	Run  runRef `json:"run"`
	Over bool   `json:"over,omitempty"` // its exit is recorded: let go of it
	All  bool   `json:"all,omitempty"`  // everything that runs was told before this
}

// belongings are what keeps a run's last words and its exit from getting lost, of which a supervisor that dies leaves
// nothing. Files are nil where they could not be had.
type belongings struct {
	run   runRef
	pidfd *os.File
	fifos [2]*os.File
}

func (b belongings) close() { closeFiles(b.pidfd, b.fifos[0], b.fifos[1]) }

// takeFiles makes belongings of what came with a message.
func takeFiles(run runRef, fds []int) belongings {
	files := openFDs(fds...)
	b := belongings{run: run}
	if len(files) > 0 {
		b.pidfd = files[0]
	}
	if len(files) == 3 {
		b.fifos = [2]*os.File{files[1], files[2]}
	}
	return b
}

// holding is one connection on which everything that runs is lent.
type holding struct {
	mu   sync.Mutex // one message at a time
	conn *net.UnixConn
}

// tell sends one message. Who does not read is given up: a start must not wait for it for long.
func (h *holding) tell(m lent, fds ...int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tellLocked(m, fds...)
}

func (h *holding) tellLocked(m lent, fds ...int) {
	_ = h.conn.SetWriteDeadline(time.Now().Add(lendTimeout))
	if err := writeFDs(h.conn, m, fds...); err != nil {
		_ = h.conn.Close() // half a message may have been sent; the end of the call takes it off the list
	}
}

// hold lends the caller everything that runs, and what is started from now on before it can do anything, until it goes.
func (s *server) hold(ctx context.Context, conn *net.UnixConn) {
	h := &holding{conn: conn}
	h.mu.Lock()
	s.mu.Lock()
	s.holdings[h] = struct{}{}
	all := make([]*container, 0, len(s.containers))
	for _, c := range s.containers {
		all = append(all, c)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.holdings, h)
		s.mu.Unlock()
	}()
	s.reply(conn, nil, nil)
	for _, c := range all {
		if m, fds, ok := c.lend(); ok {
			h.tellLocked(m, fds...)
			closeFDs(fds...)
		}
	}
	h.tellLocked(lent{All: true})
	h.mu.Unlock()
	<-ctx.Done()
}

// lend returns copies of what a container has that runs.
func (c *container) lend() (m lent, fds []int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Pid == 0 || c.exit != nil || c.released {
		return lent{}, nil, false
	}
	pidfd, err := dupFD(c.pidfd)
	if err != nil {
		c.srv.log.Warn("cannot lend what a container has", "container", c.id, "err", err)
		return lent{}, nil, false
	}
	fds = []int{pidfd}
	if c.out != nil {
		for _, f := range c.out.fifos {
			fifo, err := dupFD(f)
			if err != nil { // its last words are taken, and its exit is just being recorded
				closeFDs(fds[1:]...)
				fds = fds[:1]
				break
			}
			fds = append(fds, fifo)
		}
	}
	return lent{Run: c.ref()}, fds, true
}

// ref names the present run. c.mu is held, or nobody else knows of the container.
func (c *container) ref() runRef {
	return runRef{ID: c.id, Pid: c.rec.Pid, StartTime: c.rec.StartTime}
}

// lendAll tells everybody who holds of a new run.
func (s *server) lendAll(c *container) {
	holdings := s.allHoldings()
	if len(holdings) == 0 {
		return
	}
	m, fds, ok := c.lend()
	defer closeFDs(fds...)
	if !ok {
		return
	}
	for _, h := range holdings {
		h.tell(m, fds...)
	}
}

// letGo tells everybody who holds that there is nothing more to hold of a run.
func (s *server) letGo(run runRef) {
	for _, h := range s.allHoldings() {
		h.tell(lent{Run: run, Over: true})
	}
}

func (s *server) allHoldings() []*holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*holding, 0, len(s.holdings))
	for h := range s.holdings {
		all = append(all, h)
	}
	return all
}

// askHolder gets from who holds for this instance, if anybody does, what an earlier supervisor lent.
func (s *server) askHolder(ctx context.Context) map[runtime.ID]belongings {
	ctx, cancel := context.WithTimeout(ctx, giveTimeout)
	defer cancel()
	all := map[runtime.ID]belongings{}
	c := &Client{socket: holderPath(s.cfg)}
	conn, done, err := c.send(ctx, opGive, struct{}{})
	if err != nil {
		return all // nobody holds: what ended unseen is lost
	}
	defer done()
	if cred, err := peerCred(conn); err != nil || cred.Uid != 0 {
		s.log.Warn("what another user holds is not taken")
		return all
	}
	for {
		var m lent
		fds, err := readFDs(conn, maxRequest, &m)
		if err != nil {
			s.log.Warn("the agent did not give all that it holds", "err", err)
			return all
		}
		if m.All {
			closeFDs(fds...)
			return all
		}
		all[m.Run.ID] = takeFiles(m.Run, fds)
	}
}
