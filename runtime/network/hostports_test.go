package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"reconciler/runtime"
)

func TestListeningReadsWhatTheKernelPrints(t *testing.T) {
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0277 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0
   2: 0200000A:0016 0100000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0
`
	const tcp6 = `  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: B80D0120000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 00000000:00000000
   2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A 00000000:00000000
`
	for _, c := range []struct{ text, want string }{
		{tcp, "127.0.0.1:631 0.0.0.0:22"},
		{tcp6, "[::1]:80 [2001:db8::1]:81 127.0.0.1:82"},
	} {
		found, err := listening(strings.NewReader(c.text), protocolTCP)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, f := range found {
			got = append(got, f.At.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	for _, bad := range []string{"zz:0016", "0100007F", "0100007F:1", "010000:0016"} {
		if at, err := parseSocket(bad); err == nil {
			t.Errorf("%q: %s", bad, at)
		}
	}
}

func FuzzListening(f *testing.F) {
	f.Add("   0: 0100007F:0277 00000000:0000 0A 0\n")
	f.Fuzz(func(_ *testing.T, text string) { _, _ = listening(strings.NewReader(text), protocolTCP) })
}

// What is written for a published port is what another instance reads from it.
func TestPublishedPortsAreReadBack(t *testing.T) {
	l := Lease{IP: netip.MustParseAddr("10.77.0.2"), IPv6: netip.MustParseAddr("fd00::2")}
	for hostIP, want := range map[string][]string{
		"":            {"0.0.0.0:8080", "[::]:8080"},
		"0.0.0.0":     {"0.0.0.0:8080"},
		"192.0.2.1":   {"192.0.2.1:8080"},
		"2001:db8::1": {"[2001:db8::1]:8080"},
	} {
		p := runtime.Port{HostPort: 8080, ContainerPort: 80, Protocol: protocolUDP}
		if hostIP != "" {
			p.HostIP = netip.MustParseAddr(hostIP)
		}
		var got []string
		for _, e := range portElements(p, l) {
			if taken, ok := decodePort(e.set, []byte(e.key)); ok {
				if taken.Protocol != protocolUDP {
					t.Errorf("%s: protocol %s", hostIP, taken.Protocol)
				}
				got = append(got, taken.At.String())
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", hostIP, got, want)
		}
	}
}
