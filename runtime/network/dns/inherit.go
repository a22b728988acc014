package dns

import (
	"net"
	"os"
)

// Sockets returns copies of the sockets that are listened on, for Config.Sockets of the program that is about to be
// executed in this process. The caller closes them.
func (s *Server) Sockets() (files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		for _, one := range l.sockets {
			if f, err := one.File(); err == nil { // without it, it is listened on anew
				files = append(files, f)
			}
		}
	}
	return files
}

// inherited are sockets by their address, until they are taken.
type inherited struct {
	packets     map[string]net.PacketConn
	connections map[string]net.Listener
}

// inherit takes files over. What is no socket of a kind that we listen on is closed.
func inherit(files []*os.File) inherited {
	left := inherited{map[string]net.PacketConn{}, map[string]net.Listener{}}
	for _, f := range files {
		if c, err := net.FilePacketConn(f); err == nil {
			left.packets[c.LocalAddr().String()] = c
		} else if l, err := net.FileListener(f); err == nil {
			left.connections[l.Addr().String()] = l
		}
		_ = f.Close()
	}
	return left
}

// close closes what nobody took.
func (left inherited) close() {
	for at, c := range left.packets {
		_ = c.Close()
		delete(left.packets, at)
	}
	for at, l := range left.connections {
		_ = l.Close()
		delete(left.connections, at)
	}
}
