package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Limits are bits a second, as they are on the wire with all headers; zero means none.
type Limits struct {
	Ingress int64 // to the container
	Egress  int64 // from it
}

// Limit changes the limits of an attached container. What it sends and receives goes on.
func (b *Bridge) Limit(ctx context.Context, id runtime.ID, limits Limits) error {
	op := "limit bandwidth of " + string(id)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	link, err := netlink.LinkByName(b.names.hostEnd(id))
	if err != nil {
		return fmt.Errorf("%s: interface %s: %w", op, b.names.hostEnd(id), err)
	}
	return b.limit(id, link, limits)
}

func (b *Bridge) limit(id runtime.ID, hostEnd netlink.Link, limits Limits) error {
	if err := setBucket(hostEnd, limits.Ingress); err != nil {
		return fmt.Errorf("limit ingress of %s: %w", id, err)
	}
	if err := b.limitEgress(id, hostEnd, limits.Egress); err != nil {
		return fmt.Errorf("limit egress of %s: %w", id, err)
	}
	return nil
}

// limitEgress sends what comes from the container through a device that queues: an interface can only hold back what
// leaves it, and dropping what arrives too fast keeps TCP far below the limit.
func (b *Bridge) limitEgress(id runtime.ID, hostEnd netlink.Link, rate int64) error {
	name := b.names.shaperOf(id)
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: hostEnd.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS,
	}}
	shaper, err := netlink.LinkByName(name)
	limited := err == nil
	if err != nil && !isNotFound(err) {
		return err
	}
	if rate == 0 {
		if !limited {
			return nil
		}
		// The way through the device first, so that nothing falls into a gap.
		failpoint.Here("bandwidth: limited still")
		if err = netlink.QdiscDel(ingress); err != nil && !isNoQueue(err) {
			return fmt.Errorf("remove redirection: %w", err)
		}
		failpoint.Here("bandwidth: nothing led through the device")
		if err = netlink.LinkDel(shaper); err != nil && !isNotFound(err) {
			return fmt.Errorf("remove device %s: %w", name, err)
		}
		failpoint.Here("bandwidth: the device gone")
		return nil
	}
	if !limited {
		failpoint.Here("bandwidth: no device")
		if shaper, err = makeShaper(name); err != nil {
			return err
		}
	}
	failpoint.Here("bandwidth: a device")
	if err = setBucket(shaper, rate); err != nil {
		return err
	}
	failpoint.Here("bandwidth: a device with a rate")
	filters, err := netlink.FilterList(hostEnd, ingress.Handle)
	if limited && err == nil && len(filters) > 0 {
		return nil
	}
	return leadThrough(ingress, hostEnd, shaper)
}

// leadThrough sends what comes from the container to the shaper. It replaces what is there, which leads to a device that somebody removed.
func leadThrough(ingress *netlink.Ingress, hostEnd, shaper netlink.Link) error {
	failpoint.Here("bandwidth: the redirection not made")
	if err := netlink.QdiscDel(ingress); err != nil && !isNoQueue(err) {
		return fmt.Errorf("remove redirection: %w", err)
	}
	if err := netlink.QdiscAdd(ingress); err != nil {
		return &runtime.Error{Op: "redirect what it sends", Err: err, Hint: missingModule(err, "sch_ingress")}
	}
	failpoint.Here("bandwidth: the redirection empty")
	everything := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: hostEnd.Attrs().Index, Parent: ingress.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(shaper.Attrs().Index)},
	}
	if err := netlink.FilterAdd(everything); err != nil {
		return &runtime.Error{Op: "redirect what it sends", Err: err, Hint: missingModule(err, "cls_u32 act_mirred")}
	}
	failpoint.Here("bandwidth: redirected")
	return nil
}

func makeShaper(name string) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	failpoint.Here("bandwidth: the device not made")
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		return nil, &runtime.Error{Op: "make device " + name, Err: err, Hint: missingModule(err, "ifb")}
	}
	failpoint.Here("bandwidth: the device made")
	if err := bringUp(name); err != nil {
		return nil, err
	}
	return netlink.LinkByName(name)
}

// bringUp brings up an interface that needs no address.
func bringUp(name string) error {
	conn, err := routes(0)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	var requests []request
	if hasIPv6() {
		requests = append(requests, silent(name))
	}
	failpoint.Here("bandwidth: the device down")
	err = order(conn, append(requests, up(name))...)
	failpoint.Here("bandwidth: the device up")
	return err
}

// setBucket lets rate bits a second out of an interface; 0: everything.
func setBucket(link netlink.Link, rate int64) error {
	q := bucket(rate)
	q.QdiscAttrs = netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	failpoint.Here("bandwidth: a rate not set")
	if rate == 0 {
		if err := netlink.QdiscDel(q); err != nil && !isNoQueue(err) {
			return err
		}
		failpoint.Here("bandwidth: without a rate") // apart: by chance, where a limit is of one direction
		return nil
	}
	if err := netlink.QdiscReplace(q); err != nil {
		return &runtime.Error{Op: fmt.Sprintf("set a rate of %d bits a second", rate), Err: err, Hint: missingModule(err, "sch_tbf")}
	}
	failpoint.Here("bandwidth: a rate set")
	return nil
}

// What a bucket holds: enough for a busy server that looks late, a fiftieth of a second. And what may wait for it: of 10
// to 200 ms at 1 to 10 Mbit/s, longer queues made TCP lose more at once, and whole seconds fell a third short.
const (
	burstMillis = 20
	queueMillis = 10
	minBurst    = 2 * defaultMTU
	minQueue    = 16 << 10
)

// bucket is a token bucket of rate bits a second.
func bucket(rate int64) *netlink.Tbf {
	bytes := max(uint64(rate)/8, 1)
	burst := max(bytes*burstMillis/1000, minBurst)
	queue := max(bytes*queueMillis/1000, minQueue)
	return &netlink.Tbf{Rate: bytes, Buffer: netlink.Xmittime(bytes, clamp32(burst)), Limit: clamp32(queue + burst)}
}

func clamp32(n uint64) uint32 { return uint32(min(n, 1<<30)) }

// isNoQueue reports that there was nothing to remove: the kernel says so in several ways.
func isNoQueue(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || isNotFound(err)
}
