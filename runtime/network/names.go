package network

import (
	"crypto/sha256"
	"encoding/base32"
	"net/netip"
	"strings"

	"reconciler/runtime"
)

// tablePrefix begins the tables of every instance.
const tablePrefix = "reconciler-"

// maxName is what the kernel takes for an interface.
const maxName = 15

// names are what an instance calls its objects in the kernel.
type names struct {
	bridge string // rc-INSTANCE, or rc- and a hash where that is too long
	table  string // of nftables, in the families inet and bridge
	alias  string // of the bridge: whose it is, for people and against collisions
	host   string // prefix of the host's end of each container's interface
	shaper string // prefix of the device that slows down what a container sends
}

func namesOf(instance string) names {
	n := names{
		bridge: "rc-" + instance, table: tablePrefix + instance, alias: "reconciler instance " + instance,
		host: "rv" + digest(instance, 5), shaper: "ri" + digest(instance, 5),
	}
	if len(n.bridge) > maxName {
		n.bridge = "rc-" + digest(instance, maxName-len("rc-"))
	}
	return n
}

// hostEnd is the name of the host's end of a container's interface: the prefix says whose it is, the rest which.
func (n names) hostEnd(id runtime.ID) string { return n.host + digest(string(id), maxName-len(n.host)) }

func (n names) shaperOf(id runtime.ID) string {
	return n.shaper + digest(string(id), maxName-len(n.shaper))
}

// digest is a hash of s of the given length, in characters that interfaces may have.
func digest(s string, length int) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:length]
}

// macOf derives a locally administered address, which is unique on the bridge as ip is.
func macOf(ip netip.Addr) MAC {
	b := ip.As4()
	return MAC{0x02, 'r', b[0], b[1], b[2], b[3]}
}

// within returns the address in the /64 whose last four bytes are ip's.
func within(prefix netip.Prefix, ip netip.Addr) netip.Addr {
	b, v4 := prefix.Addr().As16(), ip.As4()
	copy(b[12:], v4[:])
	return netip.AddrFrom16(b)
}

// linkLocal is the address that a kernel gives to an interface with this MAC (RFC 4291, appendix A).
func linkLocal(m MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe, 13: m[3], 14: m[4], 15: m[5]})
}
