package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	nl "github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nlenc"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Watch returns a channel of hints that somebody may have changed or removed what Repair makes, until ctx ends; it is closed
// then. The kernel tells of it, so nothing is looked at meanwhile. Changes of rules by a process of this one's name are its
// own. Forwarding is not told of.
func (b *Bridge) Watch(ctx context.Context) (<-chan struct{}, error) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		return nil, err
	}
	rules := ruleChanges{table: b.names.table, own: strings.TrimSpace(string(comm))}
	filter, err := listen(ctx, unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES)
	if err != nil {
		return nil, fmt.Errorf("watch rules: %w", err)
	}
	links, err := listen(ctx, unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		_ = filter.Close()
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	hints := make(chan struct{}, 1)
	var both sync.WaitGroup
	both.Go(func() { relay(filter, hints, rules.concerns) })
	both.Go(func() { relay(links, hints, b.names.concerns) })
	go func() {
		both.Wait()
		close(hints)
	}()
	return hints, nil
}

// listen returns a socket that hears what groups are told, and is closed when ctx ends.
func listen(ctx context.Context, family int, groups ...uint32) (*nl.Conn, error) {
	c, err := nl.Dial(family, nil)
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err := c.JoinGroup(g); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	context.AfterFunc(ctx, func() { _ = c.Close() })
	return c, nil
}

// relay turns messages that concern us into hints, until the socket is closed.
func relay(c *nl.Conn, hints chan<- struct{}, concerns func(nl.Message) bool) {
	for {
		messages, err := c.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		hint := err != nil // the kernel dropped some
		for _, m := range messages {
			hint = concerns(m) || hint // each has to be seen
		}
		if hint {
			select {
			case hints <- struct{}{}:
			default:
			}
		}
	}
}

// sizeofNfgenmsg is what stands before the attributes of a message about rules.
const sizeofNfgenmsg = 4

// ruleChanges finds out whose transactions change a table.
type ruleChanges struct {
	table, own string
	touched    bool // by the transaction that is being told of
}

// concerns reads one message. At the end of each transaction the kernel says which process it was.
func (r *ruleChanges) concerns(m nl.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < sizeofNfgenmsg {
		return false
	}
	attributes, err := nl.NewAttributeDecoder(m.Data[sizeofNfgenmsg:])
	if err != nil {
		return false
	}
	if m.Header.Type&0xff == unix.NFT_MSG_NEWGEN {
		by := ""
		for attributes.Next() {
			if attributes.Type() == unix.NFTA_GEN_PROC_NAME {
				by = attributes.String()
			}
		}
		hint := r.touched && by != r.own
		r.touched = false
		return hint
	}
	for attributes.Next() {
		if attributes.Type() == unix.NFTA_TABLE_NAME { // 1, as is the table's name in messages of all that is in one
			r.touched = r.touched || attributes.String() == r.table
		}
	}
	return false
}

// concerns reads one message about interfaces and addresses.
func (n names) concerns(m nl.Message) bool {
	switch m.Header.Type {
	case unix.RTM_DELLINK, unix.RTM_NEWLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return false
		}
		attributes, err := nl.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
		if err != nil {
			return false
		}
		name := ""
		for attributes.Next() {
			if attributes.Type() == unix.IFLA_IFNAME {
				name = attributes.String()
			}
		}
		if m.Header.Type == unix.RTM_DELLINK { // from this server, or from a bridge
			return name == n.bridge || strings.HasPrefix(name, n.host)
		}
		return name == n.bridge && nlenc.Uint32(m.Data[8:12])&unix.IFF_UP == 0
	case unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return false
		}
		bridge, err := netlink.LinkByName(n.bridge)
		return err == nil && uint32(bridge.Attrs().Index) == nlenc.Uint32(m.Data[4:8])
	}
	return false
}
