package network

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Taken is a port of this server that this instance cannot publish, because somebody else has it.
type Taken struct {
	Protocol string         // TCP or UDP
	At       netip.AddrPort // the unspecified address: every one of its family; :: where a program listens often IPv4 too
	By       string         // such as "a program that listens" or "instance edge"
}

// Taken lists the ports that programs of this server listen on, and that other instances publish. Published ports have
// no listening socket, so neither shows the other. The instance's own name server is in nobody's way: see routed.
func (b *Bridge) Taken(ctx context.Context) ([]Taken, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list ports in use: %w", err)
	}
	var all []Taken
	for _, source := range []struct{ file, protocol string }{
		{"tcp", protocolTCP}, {"tcp6", protocolTCP}, {"udp", protocolUDP}, {"udp6", protocolUDP},
	} {
		// The thread's own network namespace, as everything else here.
		f, err := os.Open("/proc/thread-self/net/" + source.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list ports in use: %w", err)
		}
		found, err := listening(f, source.protocol)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("list ports in use: read %s: %w", f.Name(), err)
		}
		all = append(all, found...)
	}
	st, err := b.store.read()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, st.isNameServer)
	others, err := b.publishedByOthers()
	if err != nil {
		return nil, fmt.Errorf("list ports in use by other instances: %w", err)
	}
	all = append(all, others...)
	slices.SortFunc(all, func(x, y Taken) int {
		if c := strings.Compare(x.Protocol, y.Protocol); c != 0 {
			return c
		}
		if c := x.At.Compare(y.At); c != 0 {
			return c
		}
		return strings.Compare(x.By, y.By)
	})
	return slices.Compact(all), nil
}

func (s *state) isNameServer(t Taken) bool {
	return t.At.Port() == portDNS &&
		(s.Subnet.IsValid() && t.At.Addr() == gateway(s.Subnet) || s.Subnet6.IsValid() && t.At.Addr() == gateway(s.Subnet6))
}

// States of sockets in /proc/net: one that waits for connections, and one of UDP that has no peer.
const stateListen, stateUnconnected = "0A", "07"

// listening reads what the kernel prints of sockets in /proc/net/tcp and the files like it.
func listening(r io.Reader, protocol string) ([]Taken, error) {
	state := stateListen
	if protocol == protocolUDP {
		state = stateUnconnected
	}
	var all []Taken
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[0] == "sl" || fields[3] != state {
			continue
		}
		at, err := parseSocket(fields[1])
		if err != nil {
			return nil, err
		}
		all = append(all, Taken{Protocol: protocol, At: at, By: "a program that listens"})
	}
	return all, lines.Err()
}

// parseSocket reads such as 0100007F:0035: words of the address as the processor has them, and a port.
func parseSocket(s string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	p, perr := hex.DecodeString(port)
	if err != nil || perr != nil || len(raw)%4 != 0 || len(p) != 2 {
		return netip.AddrPort{}, fmt.Errorf("%q: not an address and a port", s)
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q: not an address and a port", s)
	}
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(p)), nil
}

// publishedByOthers reads the maps of the other instances' tables.
func (b *Bridge) publishedByOthers() ([]Taken, error) {
	conn, err := ruling()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	var all []Taken
	for _, t := range tables {
		instance, ours := strings.CutPrefix(t.Name, tablePrefix)
		if !ours || t.Name == b.names.table {
			continue
		}
		sets, err := conn.GetSets(t)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was just taken down
		}
		if err != nil {
			return nil, err
		}
		for _, s := range sets {
			elements, err := conn.GetSetElements(s)
			if err != nil {
				return nil, err
			}
			for _, e := range elements {
				if taken, ok := decodePort(s.Name, e.Key); ok {
					taken.By = "instance " + instance
					all = append(all, taken)
				}
			}
		}
	}
	return all, nil
}

// decodePort reads the key of a map of published ports, as familyElements wrote it.
func decodePort(set string, key []byte) (Taken, bool) {
	var at netip.Addr
	switch set {
	case mapPorts4, mapPorts6:
		if len(key) < 8 {
			return Taken{}, false
		}
		at, _ = netip.AddrFromSlice(key[4 : len(key)-4])
	case mapAny4:
		at = netip.IPv4Unspecified()
	case mapAny6:
		at = netip.IPv6Unspecified()
	default:
		return Taken{}, false
	}
	if len(key) < 8 || !at.IsValid() {
		return Taken{}, false
	}
	protocol := protocolTCP
	if key[0] == unix.IPPROTO_UDP {
		protocol = protocolUDP
	}
	return Taken{Protocol: protocol, At: netip.AddrPortFrom(at, binary.BigEndian.Uint16(key[len(key)-4:]))}, true
}
