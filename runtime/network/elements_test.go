package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"reconciler/runtime"
)

func TestSourcesDoNotOverlap(t *testing.T) {
	for allow, want := range map[string]string{
		"":                                   "0.0.0.0/0",
		"10.0.0.0/8":                         "10.0.0.0/8",
		"10.1.2.3/8":                         "10.0.0.0/8",
		"10.1.0.0/16 10.0.0.0/8 10.2.0.0/16": "10.0.0.0/8",
		"192.0.2.1/32 192.0.2.1/32":          "192.0.2.1/32",
		"fd00::/8":                           "",
		"fd00::/8 10.0.0.0/8":                "10.0.0.0/8",
		"0.0.0.0/0 10.0.0.0/8 255.255.255.255/32": "0.0.0.0/0",
	} {
		var prefixes []netip.Prefix
		for f := range strings.FieldsSeq(allow) {
			prefixes = append(prefixes, netip.MustParsePrefix(f))
		}
		var got []string
		for _, p := range sources(prefixes, netip.IPv4Unspecified()) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", allow, got, want)
		}
	}
}

// Taking away what difference says and adding what it says makes one set the other.
func TestDifference(t *testing.T) {
	draw := rapid.SliceOfDistinct(rapid.Custom(func(t *rapid.T) element {
		return element{set: rapid.SampledFrom([]string{mapAny4, mapPorts4}).Draw(t, "set"), key: rapid.StringN(1, 2, 2).Draw(t, "key"), val: rapid.StringN(0, 1, 1).Draw(t, "val")}
	}), func(e element) element { return e })
	rapid.Check(t, func(t *rapid.T) {
		have, want := draw.Draw(t, "have"), draw.Draw(t, "want")
		slices.SortFunc(have, compareElements)
		slices.SortFunc(want, compareElements)
		del, add := difference(have, want)
		got := slices.DeleteFunc(slices.Clone(have), func(e element) bool { return slices.Contains(del, e) })
		got = append(got, add...)
		slices.SortFunc(got, compareElements)
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

func TestPortsCollide(t *testing.T) {
	port := func(hostIP, protocol string, n uint16) runtime.Port {
		p := runtime.Port{Protocol: protocol, HostPort: n, ContainerPort: 1}
		if hostIP != "" {
			p.HostIP = netip.MustParseAddr(hostIP)
		}
		return p
	}
	for _, c := range []struct {
		a, b runtime.Port
		want bool
	}{
		{port("", "TCP", 80), port("", "TCP", 80), true},
		{port("", "TCP", 80), port("", "UDP", 80), false},
		{port("", "TCP", 80), port("", "TCP", 81), false},
		{port("", "TCP", 80), port("192.0.2.1", "TCP", 80), true},
		{port("0.0.0.0", "TCP", 80), port("192.0.2.1", "TCP", 80), true},
		{port("0.0.0.0", "TCP", 80), port("::", "TCP", 80), false},
		{port("192.0.2.1", "TCP", 80), port("192.0.2.2", "TCP", 80), false},
		{port("2001:db8::1", "TCP", 80), port("::", "TCP", 80), true},
	} {
		if got := c.a.Collides(c.b); got != c.want || c.b.Collides(c.a) != got {
			t.Errorf("%s and %s: %v, want %v", describePort(c.a), describePort(c.b), got, c.want)
		}
	}
}

func TestNamesFit(t *testing.T) {
	for instance, bridge := range map[string]string{
		"default": "rc-default", "edge-17-abcd": "rc-edge-17-abcd", "edge-17-abcde": "rc-" + digest("edge-17-abcde", 12),
	} {
		n := namesOf(instance)
		for _, name := range []string{n.bridge, n.hostEnd("web-1"), n.shaperOf("web-1")} {
			if len(name) > maxName {
				t.Errorf("%s: %d characters", name, len(name))
			}
		}
		if n.bridge != bridge || strings.HasPrefix(n.shaperOf("x"), n.host) || n.hostEnd("a") == n.hostEnd("b") {
			t.Errorf("%s: %+v, want bridge %s", instance, n, bridge)
		}
	}
}
