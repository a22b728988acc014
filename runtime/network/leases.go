package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"reconciler/runtime"
)

// MAC is the address of an interface; as text it has colons.
type MAC [6]byte

// String returns it as in 02:72:0a:4d:00:02.
func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText is String.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (m *MAC) UnmarshalText(text []byte) error {
	a, err := net.ParseMAC(string(text))
	if err != nil || len(a) != len(m) {
		return fmt.Errorf("%q: not a MAC address", text)
	}
	copy(m[:], a)
	return nil
}

// Lease is what a container holds for as long as it exists.
type Lease struct {
	ID   runtime.ID   `json:"id"`
	Name runtime.Name `json:"name"`
	IP   netip.Addr   `json:"ip"`
	IPv6 netip.Addr   `json:"ipv6,omitzero"` // the zero Addr where the server has no IPv6
	MAC  MAC          `json:"mac"`
	// Ports are published now.
	Ports []runtime.Port `json:"ports,omitempty"`
}

// rested is how long an address waits before another name gets it, or a second container of the same name. Connections,
// neighbour caches and names that somebody resolved before are over by then.
const rested = 5 * time.Minute

// maxResting bounds what is remembered of addresses that nobody has; what is forgotten is only given out again when the
// whole network was gone through.
const maxResting = 512

// resting is an address that was released.
type resting struct {
	Name  runtime.Name `json:"name"`
	IP    netip.Addr   `json:"ip"`
	Since time.Time    `json:"since"`
}

// state is the content of leases.json.
type state struct {
	Version int          `json:"version"`
	Subnet  netip.Prefix `json:"subnet,omitzero"`
	Subnet6 netip.Prefix `json:"subnet6,omitzero"`
	// Last is the address that was given out last and had never been before: the search goes on behind it.
	Last    netip.Addr `json:"last,omitzero"`
	Leases  []Lease    `json:"leases,omitempty"`
	Resting []resting  `json:"resting,omitempty"` // the longest first
}

const stateVersion = 1

// errNoAddress means that every address is leased or rests.
var errNoAddress = errors.New("no address is free")

func (s *state) find(id runtime.ID) *Lease {
	for i := range s.Leases {
		if s.Leases[i].ID == id {
			return &s.Leases[i]
		}
	}
	return nil
}

// heldBy returns the containers of a name that have a lease, the one with ports last: what is released last is leased first.
func (s *state) heldBy(name runtime.Name) (ids []runtime.ID) {
	for _, published := range []bool{false, true} {
		for _, l := range s.Leases {
			if l.Name == name && len(l.Ports) > 0 == published {
				ids = append(ids, l.ID)
			}
		}
	}
	return ids
}

// lease gives id an address: the one it has, the one that its name had, or another. changed says whether s did.
func (s *state) lease(id runtime.ID, name runtime.Name, now time.Time) (l Lease, changed bool, err error) {
	if l := s.find(id); l != nil {
		return *l, false, nil
	}
	ip, err := s.take(name, now)
	if err != nil {
		return Lease{}, false, err
	}
	l = Lease{ID: id, Name: name, IP: ip, MAC: macOf(ip)}
	if s.Subnet6.IsValid() {
		l.IPv6 = within(s.Subnet6, ip)
	}
	s.Leases = append(s.Leases, l)
	return l, true, nil
}

// take chooses an address. A successor gets its predecessor's at once; where a container of the name lives, or the
// address was another's, it has to have rested.
func (s *state) take(name runtime.Name, now time.Time) (netip.Addr, error) {
	alone := !slices.ContainsFunc(s.Leases, func(l Lease) bool { return l.Name == name })
	for i, r := range slices.Backward(s.Resting) {
		if r.Name == name && (alone || r.over(now)) {
			s.Resting = slices.Delete(s.Resting, i, i+1)
			return r.IP, nil
		}
	}
	if ip, ok := s.next(); ok {
		s.Last = ip
		return ip, nil
	}
	for i, r := range s.Resting {
		if r.over(now) {
			s.Resting = slices.Delete(s.Resting, i, i+1)
			return r.IP, nil
		}
	}
	for i, r := range s.Resting { // rather too soon than not at all
		if r.Name == name {
			s.Resting = slices.Delete(s.Resting, i, i+1)
			return r.IP, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w in %s: %d are leased, %d rest for %s after their release", errNoAddress, s.Subnet, len(s.Leases), len(s.Resting), rested)
}

// over also takes a clock that was set back for the end of the rest: it must not block an address for years.
func (r resting) over(now time.Time) bool { return now.Before(r.Since) || now.Sub(r.Since) >= rested }

// next returns the first address behind Last, around the end of the subnet, that nobody has or had.
func (s *state) next() (netip.Addr, bool) {
	used := make(map[netip.Addr]bool, len(s.Leases)+len(s.Resting))
	for _, l := range s.Leases {
		used[l.IP] = true
	}
	for _, r := range s.Resting {
		used[r.IP] = true
	}
	first, last := gateway(s.Subnet).Next(), broadcast(s.Subnet).Prev()
	ip := s.Last
	// One more than are used need to be looked at, at most: the search ends in any subnet.
	for range len(used) + 1 {
		ip = ip.Next()
		if !ip.IsValid() || ip.Less(first) || last.Less(ip) {
			ip = first
		}
		if last.Less(ip) {
			return netip.Addr{}, false
		}
		if !used[ip] {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// release takes id's lease back.
func (s *state) release(id runtime.ID, now time.Time) {
	i := slices.IndexFunc(s.Leases, func(l Lease) bool { return l.ID == id })
	if i < 0 {
		return
	}
	s.Resting = append(s.Resting, resting{Name: s.Leases[i].Name, IP: s.Leases[i].IP, Since: now})
	for len(s.Resting) > maxResting && s.Resting[0].over(now) {
		s.Resting = s.Resting[1:]
	}
	s.Leases = slices.Delete(s.Leases, i, i+1)
}

// rebase forgets every address: the subnet is another one.
func (s *state) rebase(subnet netip.Prefix) {
	*s = state{Version: stateVersion, Subnet: subnet, Subnet6: s.Subnet6}
}
