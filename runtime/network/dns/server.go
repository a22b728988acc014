package dns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	mdns "github.com/miekg/dns"
)

// Config is where a server finds what it needs.
type Config struct {
	// NamesFile is what WriteNames writes. Its directory has to exist, the file need not.
	NamesFile string
	// ResolvConf names the servers that get all other questions; empty: /etc/resolv.conf.
	ResolvConf string
	// Sockets are what another Server's Sockets returned, which ran in this process before another program was executed in
	// it. Who asked meanwhile has waited and is answered.
	Sockets []*os.File
	Log     *slog.Logger
}

// Server answers names.
type Server struct {
	cfg       Config
	names     *file[*index]
	upstreams *file[[]string]
	waiting   waiting

	mu   sync.Mutex
	open map[netip.Addr]*listener
}

// New returns a server that does nothing yet.
func New(cfg Config) *Server {
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	return &Server{
		cfg:       cfg,
		names:     &file[*index]{path: cfg.NamesFile, parse: parseNames},
		open:      map[netip.Addr]*listener{},
		upstreams: &file[[]string]{path: cfg.ResolvConf, parse: parseResolvConf},
	}
}

// retryAfter is how long an address waits that could not be listened on, such as one whose port another program has.
const retryAfter = 5 * time.Second

// Run answers until ctx ends. It listens on what the names file says, also when that changes.
func (s *Server) Run(ctx context.Context) error {
	left := inherit(s.cfg.Sockets)
	defer func() {
		left.close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for a, l := range s.open {
			l.close()
			delete(s.open, a)
		}
	}()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("answer names: %w", err)
	}
	defer func() { _ = watcher.Close() }()
	if err := watcher.Add(filepath.Dir(s.cfg.NamesFile)); err != nil {
		return fmt.Errorf("answer names: watch %s: %w", filepath.Dir(s.cfg.NamesFile), err)
	}
	var said string
	for {
		err := s.listen(ctx, left)
		left.close() // what the names file does not ask for
		if text := fmt.Sprint(err); err != nil && text != said {
			s.cfg.Log.Warn("names are not answered everywhere", "error", err)
		}
		said = fmt.Sprint(err)
		var retry <-chan time.Time
		if err != nil {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-retry:
		case e, ok := <-watcher.Events:
			if !ok {
				return fmt.Errorf("answer names: %s is watched no more", filepath.Dir(s.cfg.NamesFile))
			}
			if filepath.Base(e.Name) != filepath.Base(s.cfg.NamesFile) {
				continue
			}
		case err := <-watcher.Errors:
			s.cfg.Log.Warn("watch names", "error", err)
		}
	}
}

// listen opens and closes listeners until they are those of the names file.
func (s *Server) listen(ctx context.Context, left inherited) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.names.get()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nothing to answer yet
	}
	if x == nil {
		return fmt.Errorf("read %s: %w", s.cfg.NamesFile, err)
	}
	for a, l := range s.open {
		if !slices.Contains(x.names.Listen, a) {
			l.close()
			delete(s.open, a)
		}
	}
	for _, a := range x.names.Listen {
		if s.open[a] != nil {
			continue
		}
		l, lerr := listenOn(ctx, a, left, s)
		if lerr != nil {
			err = errors.Join(err, lerr)
			continue
		}
		s.open[a] = l
	}
	return err
}

// ServeDNS answers one question. It is called from many goroutines.
func (s *Server) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	x, _ := s.names.get() // what was there last is better than nothing
	from := peer(w.RemoteAddr())
	if x == nil || !x.mayAsk(from) {
		_ = w.Close() // no answer, so that nobody can make us send to others
		return
	}
	r := s.reply(x, q, from)
	if w.RemoteAddr().Network() == "udp" {
		size := mdns.MinMsgSize
		if opt := q.IsEdns0(); opt != nil {
			size = max(size, int(opt.UDPSize()))
		}
		r.Truncate(size)
	}
	_ = w.WriteMsg(r)
}

// reply finds the answer to a question.
func (s *Server) reply(x *index, q *mdns.Msg, from netip.Addr) *mdns.Msg {
	fail := func(code int) *mdns.Msg { return new(mdns.Msg).SetRcode(q, code) }
	if q.Opcode != mdns.OpcodeQuery || len(q.Question) != 1 {
		return fail(mdns.RcodeNotImplemented)
	}
	if records, code, known := x.answer(q.Question[0], from); known {
		r := fail(code)
		r.Answer, r.Authoritative, r.RecursionAvailable = records, true, true
		return r
	}
	if !s.waiting.enter(from) {
		return fail(mdns.RcodeServerFailure)
	}
	defer s.waiting.leave(from)
	servers, _ := s.upstreams.get()
	ctx, cancel := context.WithTimeout(context.Background(), 2*upstreamTimeout)
	defer cancel()
	r, err := forward(ctx, q, servers, x.names.Listen)
	if err != nil {
		return fail(mdns.RcodeServerFailure)
	}
	r.Id = q.Id
	return r
}

// peer is the address that a question came from.
func peer(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}
