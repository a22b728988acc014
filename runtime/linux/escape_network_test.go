package linux_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
	"reconciler/runtime/supervisor"
)

// impersonation is what an attacker on the bridge needs to know of the other two.
type impersonation struct {
	ownMAC, ownIP, victimMAC, victimIP, gatewayMAC, gatewayIP string
}

// impersonate sends what would make the server and a neighbour take this container for the victim, by address of the
// victim and by its MAC, and then a datagram as itself, so that those who wait know that everything is through.
func impersonate(args []string) error {
	m := impersonation{args[0], args[1], args[2], args[3], args[4], args[5]}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	mac := func(text string) []byte { a, _ := net.ParseMAC(text); return a }
	ip := func(text string) []byte { return netip.MustParseAddr(text).AsSlice() }
	send := func(dst, src string, kind uint16, payload []byte) error {
		frame := binary.BigEndian.AppendUint16(append(mac(dst), mac(src)...), kind)
		return unix.Sendto(fd, append(frame, payload...), 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index})
	}
	arp := func(src, addr string) []byte {
		reply := append([]byte{0, 1, 8, 0, 6, 4, 0, 2}, mac(src)...)
		reply = append(reply, ip(addr)...)
		return append(append(reply, mac(m.gatewayMAC)...), ip(m.gatewayIP)...)
	}
	datagram := func(src, text string) []byte {
		h := []byte{0x45, 0, 0, byte(28 + len(text)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		h = append(append(h, ip(src)...), ip(m.gatewayIP)...)
		var sum uint32
		for i := 0; i < len(h); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum>>16+sum))
		return append(append(h, spoofPort>>8, spoofPort&0xff, spoofPort>>8, spoofPort&0xff, 0, byte(8+len(text)), 0, 0), text...)
	}
	const isARP, isIPv4 = unix.ETH_P_ARP, unix.ETH_P_IP
	return errors.Join(
		send(m.gatewayMAC, m.ownMAC, isARP, arp(m.ownMAC, m.victimIP)),
		send(m.gatewayMAC, m.victimMAC, isARP, arp(m.victimMAC, m.ownIP)),
		send("ff:ff:ff:ff:ff:ff", m.ownMAC, isARP, arp(m.ownMAC, m.gatewayIP)),
		send(m.gatewayMAC, m.ownMAC, isIPv4, datagram(m.victimIP, "as the victim")),
		send(m.gatewayMAC, m.victimMAC, isIPv4, datagram(m.victimIP, "as the victim")),
		send(m.gatewayMAC, m.victimMAC, isIPv4, datagram(m.ownIP, "with its MAC")),
		send(m.gatewayMAC, m.ownMAC, isIPv4, datagram(m.ownIP, "as itself")),
	)
}

const spoofPort = 40_009

// reachOut makes an interface in the network that the other end of eth0 is in, which is the server's, by its number there.
func reachOut(name string) error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	peer := eth0.Attrs().NetNsID
	if peer < 0 {
		return errors.New("eth0 does not say where its other end is")
	}
	const targetNetnsID = 46 // IFLA_TARGET_NETNSID
	req := newLinkRequest(name, targetNetnsID, uint32(peer))
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	if err = unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return errors.New("no answer")
	}
	if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); code != 0 {
		return syscall.Errno(-code)
	}
	return nil
}

// newLinkRequest asks for a bridge of that name.
func newLinkRequest(name string, attribute uint16, value uint32) []byte {
	attr := func(kind uint16, data []byte) []byte {
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), data...)
		return append(b, make([]byte, (4-len(b)%4)%4)...)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = append(body, attr(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	body = append(body, attr(attribute, binary.NativeEndian.AppendUint32(nil, value))...)
	body = append(body, attr(unix.IFLA_LINKINFO, attr(unix.IFLA_INFO_KIND, []byte("bridge\x00")))...)
	h := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	h = binary.NativeEndian.AppendUint16(h, unix.RTM_NEWLINK)
	h = binary.NativeEndian.AppendUint16(h, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	h = binary.NativeEndian.AppendUint32(h, 1)
	return append(binary.NativeEndian.AppendUint32(h, 0), body...)
}

// attackNetwork is what the test binary does inside; it returns the exit status.
func attackNetwork(args []string) int {
	var err error
	switch args[0] {
	case "impersonate":
		err = impersonate(args[1:])
	case "reach-out":
		err = reachOut(args[1])
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// attacker is a container on the bridge that may send anything and change all of its own network.
func (e *env) attacker(name string) runtime.Spec {
	e.Helper()
	binary, err := os.Executable()
	if err != nil {
		e.Fatal(err)
	}
	spec := e.spec(name, "/bin/busybox", "sleep", "1000")
	spec.Image, spec.Capture = nil, []runtime.Path{{From: "/bin/busybox", To: "/bin/busybox"}, {From: binary, To: "/attempt"}}
	spec.Network, spec.Security.CapAdd = runtime.NetworkBridge, []string{"NET_RAW", "NET_ADMIN"}
	return spec
}

// Whoever has all rights in its own network can neither take a neighbour's place nor reach into the server's network.
func TestNobodyTakesANeighboursPlace(t *testing.T) {
	e := newEnv(t)
	victim := e.start(e.bridged("victim", serve))
	e.said(victim, "listening")
	attacker := e.start(e.attacker("attacker"))
	own, other := e.status(attacker), e.status(victim)
	route, err := netlink.RouteGet(net.ParseIP(own.IP))
	if err != nil || len(route) == 0 {
		t.Fatalf("no way to the attacker: %v", err)
	}
	bridge, err := netlink.LinkByIndex(route[0].LinkIndex)
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := net.ListenUDP("udp4", &net.UDPAddr{IP: route[0].Src, Port: spoofPort})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	if got := get(t, other.IP); got != "victim says hello\n" { // the server knows its MAC now
		t.Fatalf("got %q", got)
	}
	out, code := e.exec(attacker, "/attempt", "network", "impersonate",
		own.MAC, own.IP, other.MAC, other.IP, bridge.Attrs().HardwareAddr.String(), route[0].Src.String())
	if code != 0 {
		t.Fatal(out)
	}
	buf := make([]byte, 100)
	if err = waiting.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, from, err := waiting.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "as itself" {
		t.Errorf("the first that arrived is %q from %v, %v", buf[:n], from, err)
	}
	neighbours, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, nb := range neighbours {
		if nb.IP.String() == other.IP && nb.HardwareAddr.String() != other.MAC {
			t.Errorf("the server takes %s for %s", nb.HardwareAddr, nb.IP)
		}
		if nb.IP.String() == own.IP && nb.HardwareAddr.String() != own.MAC {
			t.Errorf("the server takes %s for %s", nb.HardwareAddr, nb.IP)
		}
	}
	// It may give itself the victim's addresses; nobody hears of it.
	e.exec(attacker, "/bin/busybox", "ip", "addr", "add", other.IP+"/16", "dev", "eth0")
	e.exec(attacker, "/bin/busybox", "ip", "link", "set", "eth0", "address", other.MAC)
	e.exec(attacker, "/bin/busybox", "arping", "-U", "-c", "2", "-I", "eth0", other.IP)
	if got := get(t, other.IP); got != "victim says hello\n" {
		t.Errorf("afterwards the victim's address answers %q", got)
	}
}

// The other end of a container's interface is in the server's network, and netlink knows it by a number. Power over that
// network is the server's users' alone: with user ids of its own a container has none, whatever its capabilities.
func TestNetlinkReachesNoOtherNetwork(t *testing.T) {
	e := newEnv(t)
	name := fmt.Sprintf("rl-out-%d", os.Getpid()%100_000)
	try := func(spec runtime.Spec) (string, int, bool) {
		out, code := e.exec(e.start(spec), "/attempt", "network", "reach-out", name)
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		return out, code, err == nil
	}
	if out, code, made := try(e.attacker("own")); code == 0 || made || !strings.Contains(out, unix.EPERM.Error()) {
		t.Errorf("status %d, made %v: %s", code, made, out)
	}
	// What docs/security.md says of a container with the server's users: without this the above would show nothing.
	spec := e.attacker("servers")
	spec.Security.HostUsers = new(true)
	if out, code, made := try(spec); code != 0 || !made {
		t.Errorf("the attempt is a bad one: status %d, made %v: %s", code, made, out)
	}
}

// Whoever may pass through the run directory finds nothing there to read, to write or to connect to, except the init that
// is mounted into containers.
func TestRunDirectoryShowsNothing(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "echo ready; sleep 1000")
	spec.Init = true
	id := e.start(spec)
	e.said(id, "ready")
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	may := func(path, how string) bool {
		p, err := os.StartProcess("/bin/busybox", []string{"busybox", "test", how, path}, &os.ProcAttr{Sys: &syscall.SysProcAttr{Credential: nobody}})
		if err != nil {
			t.Fatal(err)
		}
		st, err := p.Wait()
		return err == nil && st.Success()
	}
	if !may(e.cfg.RunDir, "-x") {
		t.Fatal("nobody may pass, so that this shows nothing")
	}
	seen := 0
	err := filepath.WalkDir(e.cfg.RunDir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, "/rootfs") {
			if may(path, "-e") {
				t.Errorf("others may come to %s", path)
			}
			return filepath.SkipDir
		}
		seen++
		if may(path, "-r") && path != filepath.Join(e.cfg.RunDir, "init") || may(path, "-w") {
			t.Errorf("others may read or write %s, %v", path, d.Type())
		}
		return nil
	})
	if err != nil || seen < 5 {
		t.Errorf("looked at %d: %v", seen, err)
	}
	_, err = e.ExecStream(t.Context(), supervisor.ExecRequest{ID: id, Args: []string{"true"}}, nil, nil, nil)
	if err != nil {
		t.Error(err)
	}
}
