package network

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// Connections counts the TCP connections by way of published ports to a container that are not over: those that begin, stand,
// or are closed on one side only.
func (b *Bridge) Connections(ctx context.Context, id runtime.ID) (int, error) {
	st, err := b.store.read()
	if err != nil {
		return 0, err
	}
	l := st.find(id)
	if l == nil {
		return 0, nil
	}
	total := 0
	for _, a := range l.addresses() {
		if err = ctx.Err(); err != nil {
			return 0, err
		}
		n, err := connectionsTo(a)
		if err != nil {
			return 0, explain("count the connections to "+l.Name.String(), fmt.Errorf("nf_conntrack_netlink: %w", err))
		}
		total += n
	}
	return total, nil
}

func connectionsTo(to netip.Addr) (n int, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	question, err := flowsFrom(to, ctaTupleReply, unix.IPPROTO_TCP)
	if err != nil {
		return 0, err
	}
	err = listFlows(conn, question, func(f flow) {
		if f.answer.from == to && f.translated && f.state >= tcpSynSent && f.state <= tcpCloseWait {
			n++
		}
	})
	return n, err
}
