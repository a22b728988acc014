package manifest

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// TestClaimsFindEveryCollision compares with what each pair of ports says.
func TestClaimsFindEveryCollision(t *testing.T) {
	addresses := []netip.Addr{{}}
	for _, a := range []string{"0.0.0.0", "10.0.0.1", "10.0.0.2", "::", "::1", "::2"} {
		addresses = append(addresses, netip.MustParseAddr(a))
	}
	collide := func(a, b hostPort) bool {
		switch {
		case a.port != b.port || a.protocol != b.protocol:
			return false
		case !a.at.IsValid() || !b.at.IsValid() || a.at == b.at:
			return true
		default:
			return a.at.Is4() == b.at.Is4() && (a.at.IsUnspecified() || b.at.IsUnspecified())
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		var have []hostPort
		all := make(claims[hostPort])
		for range 8 {
			h := hostPort{
				at:       rapid.SampledFrom(addresses).Draw(rt, "address"),
				port:     rapid.Int64Range(1, 2).Draw(rt, "port"),
				protocol: rapid.SampledFrom([]Protocol{ProtocolTCP, ProtocolUDP}).Draw(rt, "protocol"),
			}
			want := false
			for _, other := range have {
				want = want || collide(h, other)
			}
			before, taken := all.claim(h, h)
			if taken != want || taken && !collide(h, before) {
				rt.Fatalf("%s beside %v: taken %v by %s, want %v", h, have, taken, before, want)
			}
			if !taken {
				have = append(have, h)
			}
		}
	})
}
