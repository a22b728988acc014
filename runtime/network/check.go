package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"reconciler/runtime"
)

// Check is one test for doctor.
type Check struct {
	Name   string
	OK     bool
	Detail string
	Remedy string // what to do where it is not OK
}

// checkTimeout is for each answer that is waited for.
const checkTimeout = 2 * time.Second

// Check tries what containers need, from a namespace that is attached like theirs: forwarding, the way out, names, and
// the way in through a published port. A bridge that was not there before is removed again. Names are answered only while
// the supervisor runs.
func (b *Bridge) Check(ctx context.Context) []Check {
	s, err := b.scratch(ctx)
	if err != nil {
		return []Check{{Name: "bridge", Detail: err.Error(), Remedy: runtime.HintOf(err)}}
	}
	defer s.close(ctx)
	bridge := Check{Name: "bridge", OK: true, Detail: fmt.Sprintf("%s with %s", b.names.bridge, s.gateway.Subnet)}
	return []Check{bridge, checkForwarding(), s.egress(ctx), s.names(ctx), s.inbound(ctx)}
}

func checkForwarding() Check {
	value, err := sysctl("ipv4/ip_forward")
	if err == nil && value == "1" {
		return Check{Name: "forwarding", OK: true, Detail: "net.ipv4.ip_forward is 1"}
	}
	return Check{
		Name: "forwarding", Detail: fmt.Sprintf("net.ipv4.ip_forward is %q", value),
		Remedy: "sysctl -w net.ipv4.ip_forward=1, and see what sets it to 0 in /etc/sysctl.d",
	}
}

// blame adds who is suspected of dropping what should have passed.
func (s *scratch) blame(c Check) Check {
	chains, err := s.bridge.forwarding()
	if err != nil {
		c.Remedy = "look at the rules of this server with nft list ruleset: " + err.Error()
		return c
	}
	if c.Remedy = remedy(chains, s.bridge.names.bridge); c.Remedy == "" {
		c.Remedy = "look for rules that drop it: nft list ruleset, iptables-legacy -S FORWARD"
	}
	return c
}

// egress asks the next hop of the way out for an echo, as a container and, where that fails, as this server: a hop that
// answers neither says nothing.
func (s *scratch) egress(ctx context.Context) Check {
	c := Check{Name: "egress"}
	routes, err := defaultRoutes()
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	var hop netip.Addr
	for _, r := range routes {
		if a := addr(r.Gw); a.IsValid() {
			hop = a
			break
		}
	}
	if !hop.IsValid() {
		return Check{Name: "egress", OK: true, Detail: "this server has no default route by another server: containers reach what it reaches itself"}
	}
	err = s.inside(func() error { return echo(ctx, hop) })
	if err == nil {
		return Check{Name: "egress", OK: true, Detail: "a container reaches the next hop, " + hop.String()}
	}
	if own := echo(ctx, hop); own != nil {
		return Check{Name: "egress", OK: true, Detail: fmt.Sprintf("not known: the next hop, %s, answers no echo, to this server neither", hop)}
	}
	c.Detail = fmt.Sprintf("this server reaches the next hop, %s, and a container does not: %v", hop, err)
	return s.blame(c)
}

// names asks the bridge's name server who the bridge is: any answer counts, and none of it leaves this server.
func (s *scratch) names(ctx context.Context) Check {
	c := Check{Name: "dns", Remedy: "the supervisor answers names: start the agent, and see that nothing else listens on port 53 of all addresses"}
	arpa, err := mdns.ReverseAddr(s.gateway.Address.String())
	if err == nil {
		err = s.inside(func() error {
			q := new(mdns.Msg).SetQuestion(arpa, mdns.TypePTR)
			client := mdns.Client{Timeout: checkTimeout}
			_, _, xerr := client.ExchangeContext(ctx, q, netip.AddrPortFrom(s.gateway.Address, 53).String())
			return xerr
		})
	}
	if err != nil {
		c.Detail = fmt.Sprintf("no answer from %s: %v", s.gateway.Address, err)
		return c
	}
	return Check{Name: "dns", OK: true, Detail: "a container gets answers from " + s.gateway.Address.String()}
}

// inbound publishes a port, and connects to it from this server and from another namespace that is no container: what
// comes from there passes the rules that packets from other servers pass.
func (s *scratch) inbound(ctx context.Context) Check {
	c := Check{Name: "inbound"}
	outside, address, err := s.outside(ctx)
	if err != nil {
		c.Detail = fmt.Sprintf("make a namespace that stands for another server: %v", err)
		return c
	}
	defer outside.close(ctx)
	port, err := s.publish(ctx, netip.AddrFrom4([4]byte{127, 0, 0, 1}), address)
	if err != nil {
		c.Detail = err.Error()
		return c
	}
	for _, from := range []struct {
		who  string
		to   netip.Addr
		dial func(func() error) error
	}{
		{"this server", netip.AddrFrom4([4]byte{127, 0, 0, 1}), func(fn func() error) error { return fn() }},
		{"outside", address, outside.inside},
	} {
		err := from.dial(func() error {
			conn, err := (&net.Dialer{Timeout: checkTimeout}).DialContext(ctx, "tcp", netip.AddrPortFrom(from.to, port).String())
			if err != nil {
				return err
			}
			return conn.Close()
		})
		if err != nil {
			c.Detail = fmt.Sprintf("a published port is not reached from %s: %v", from.who, err)
			return s.blame(c)
		}
	}
	return Check{Name: "inbound", OK: true, Detail: "a published port is reached from this server and from outside"}
}

// freePort is one that no program listens on now.
func freePort(ctx context.Context) (uint16, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return netip.MustParseAddrPort(l.Addr().String()).Port(), l.Close()
}

// echo sends an ICMP echo and waits for its answer.
func echo(ctx context.Context, to netip.Addr) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	id := os.Getpid() & 0xffff
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 1, Data: []byte("reconciler doctor")}}
	data, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(checkTimeout)); err != nil {
		return err
	}
	if _, err := conn.WriteTo(data, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	buf := make([]byte, defaultMTU)
	for {
		n, from, err := conn.ReadFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return errors.New("no answer")
		}
		if err != nil {
			return err
		}
		const icmpProtocol = 1
		r, err := icmp.ParseMessage(icmpProtocol, buf[:n])
		if err != nil || r.Type != ipv4.ICMPTypeEchoReply || from.String() != to.String() {
			continue
		}
		if e, ok := r.Body.(*icmp.Echo); ok && e.ID == id {
			return nil
		}
	}
}
