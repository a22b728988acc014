package network

import (
	"github.com/vishvananda/netlink"

	"reconciler/runtime"
)

// Traffic is how many bytes went through a container's interface since it was attached.
type Traffic struct{ Received, Sent int64 }

// Traffic returns that of every attached container, by one look at all interfaces.
func (b *Bridge) Traffic() (map[runtime.ID]Traffic, error) {
	st, err := b.store.read()
	if err != nil || len(st.Leases) == 0 {
		return nil, err
	}
	links, err := linksWith(b.names.host)
	if err != nil {
		return nil, err
	}
	ends := make(map[string]netlink.Link, len(links))
	for _, l := range links {
		ends[l.Attrs().Name] = l
	}
	traffic := make(map[runtime.ID]Traffic, len(links))
	for _, l := range st.Leases {
		if end := ends[b.names.hostEnd(l.ID)]; end != nil && end.Attrs().Statistics != nil {
			// This is the other end: what it sends is what the container receives.
			traffic[l.ID] = Traffic{Received: int64(end.Attrs().Statistics.TxBytes), Sent: int64(end.Attrs().Statistics.RxBytes)}
		}
	}
	return traffic, nil
}
