package dns

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// How long an upstream server may take, and how many questions may wait: for all, and for one container, so that one
// cannot take the names of the others.
const (
	upstreamTimeout = 2 * time.Second
	maxWaiting      = 512
	maxWaitingOf    = 64
)

var errNoUpstream = errors.New("resolv.conf names no other nameserver")

// parseResolvConf returns the nameservers as host:port.
func parseResolvConf(data []byte) ([]string, error) {
	c, err := mdns.ClientConfigFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	servers := make([]string, 0, len(c.Servers))
	for _, s := range c.Servers {
		servers = append(servers, net.JoinHostPort(s, c.Port))
	}
	return servers, nil
}

// forward asks this server's own nameservers, one after another, and returns the first answer that is one. Servers on
// loopback work: the question is asked by this process, not by the container.
func forward(ctx context.Context, q *mdns.Msg, servers []string, self []netip.Addr) (*mdns.Msg, error) {
	var last *mdns.Msg
	err := errNoUpstream
	for _, server := range servers {
		if at, perr := netip.ParseAddrPort(server); perr == nil && slices.Contains(self, at.Addr()) {
			continue // it would come back here
		}
		var r *mdns.Msg
		if r, err = exchange(ctx, q, server); err != nil {
			continue
		}
		if r.Rcode != mdns.RcodeServerFailure && r.Rcode != mdns.RcodeRefused {
			return r, nil
		}
		last = r
	}
	if last != nil {
		return last, nil
	}
	return nil, err
}

// exchange asks by UDP, and by TCP what does not fit.
func exchange(ctx context.Context, q *mdns.Msg, server string) (*mdns.Msg, error) {
	r, _, err := (&mdns.Client{Net: "udp", Timeout: upstreamTimeout}).ExchangeContext(ctx, q, server)
	if err == nil && r.Truncated {
		if full, _, terr := (&mdns.Client{Net: "tcp", Timeout: upstreamTimeout}).ExchangeContext(ctx, q, server); terr == nil {
			return full, nil
		}
	}
	return r, err
}

// waiting bounds the questions that wait for upstream servers.
type waiting struct {
	mu    sync.Mutex
	total int
	of    map[netip.Addr]int
}

// enter reports whether another question may wait; leave ends it.
func (w *waiting) enter(from netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.total >= maxWaiting || w.of[from] >= maxWaitingOf {
		return false
	}
	if w.of == nil {
		w.of = map[netip.Addr]int{}
	}
	w.total++
	w.of[from]++
	return true
}

func (w *waiting) leave(from netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total--
	if w.of[from]--; w.of[from] == 0 {
		delete(w.of, from)
	}
}
