package linux_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"reconciler/runtime"
)

// answer is a server inside: it says who it is to every line on TCP port 80, as often as somebody asks, and to every datagram
// on UDP port 81.
func answer(who string) int {
	lines, err := net.Listen("tcp", ":80")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	datagrams, err := net.ListenPacket("udp", ":81")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("listening")
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := datagrams.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = datagrams.WriteTo([]byte(who), from)
		}
	}()
	for {
		conn, err := lines.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for s := bufio.NewScanner(conn); s.Scan(); {
				if _, err := fmt.Fprintln(conn, who); err != nil {
					return
				}
			}
		}()
	}
}

// answering is a container that runs answer.
func (e *env) answering(name, who string, ports ...runtime.Port) runtime.Spec {
	e.Helper()
	binary, err := os.Executable()
	if err != nil {
		e.Fatal(err)
	}
	spec := e.spec(name, "/answer", "answer", who)
	spec.Image, spec.Capture = nil, []runtime.Path{{From: binary, To: "/answer"}}
	spec.Network, spec.Ports = runtime.NetworkBridge, ports
	return spec
}

// asked asks once on an open connection.
func asked(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, "?"); err != nil {
		return "", err
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

func (e *env) connected(network, address string) net.Conn {
	e.Helper()
	conn, err := (&net.Dialer{}).DialContext(e.within(), network, address)
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() { _ = conn.Close() })
	return conn
}

// askedAnew asks on a connection of its own.
func askedAnew(ctx context.Context, address string) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	return asked(conn)
}
