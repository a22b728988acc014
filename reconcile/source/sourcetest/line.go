package sourcetest

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Weather is how a Line is.
type Weather string

// What a Line can be.
const (
	Well    Weather = ""
	Refused Weather = "refused"               // nobody listens
	Reset   Weather = "reset"                 // every connection ends at once
	Silent  Weather = "hanging"               // connections are taken, and nothing comes
	Slow    Weather = "slow by the byte"      // what the server sends comes byte by byte
	Cut     Weather = "cut in the middle"     // each connection ends after some bytes of the server
	Garbage Weather = "garbage with controls" // something else than the server answers
)

// cutAfter is in the middle of the first answer of a server of either kind.
const cutAfter = 300

// Line is a TCP port that leads to a server's, in all weathers.
type Line struct {
	// Addr is where it begins.
	Addr string

	tb testing.TB
	to string

	mu       sync.Mutex
	weather  Weather
	listener net.Listener
	conns    map[net.Conn]bool
	wg       sync.WaitGroup
}

// NewLine makes a line to a server's address, for as long as the test lasts.
func NewLine(tb testing.TB, to string) *Line {
	tb.Helper()
	l := &Line{tb: tb, to: to, conns: map[net.Conn]bool{}}
	l.listen("127.0.0.1:0")
	l.Addr = l.listener.Addr().String()
	tb.Cleanup(func() {
		l.Turn(Refused)
		l.wg.Wait()
	})
	return l
}

// Turn changes the weather and ends every connection there is.
func (l *Line) Turn(w Weather) {
	l.tb.Helper()
	l.mu.Lock()
	was := l.weather
	l.weather = w
	for c := range l.conns {
		_ = c.Close() // that is the point
	}
	if w == Refused {
		_ = l.listener.Close() // that is the point
	}
	l.mu.Unlock()
	if was == Refused && w != Refused {
		l.listen(l.Addr)
	}
}

func (l *Line) listen(addr string) {
	l.tb.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		l.tb.Fatal(err)
	}
	l.mu.Lock()
	l.listener = listener
	l.mu.Unlock()
	l.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			l.wg.Go(func() { l.carry(conn) })
		}
	})
}

// keep has Turn close a connection, and returns the weather that it was made in.
func (l *Line) keep(c net.Conn) Weather {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	return l.weather
}

func (l *Line) drop(c net.Conn) {
	_ = c.Close() // it may be closed
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *Line) carry(client net.Conn) {
	defer l.drop(client)
	weather := l.keep(client)
	switch weather {
	case Reset, Refused:
		return
	case Silent:
		_, _ = io.Copy(io.Discard, client) // until somebody has had enough
		return
	case Garbage:
		_, _ = io.WriteString(client, "\x1b[31m\x00\x07 no server\r\n\r\n\x9b2J") // that is the point
		return
	}
	server, err := net.Dial("tcp", l.to)
	if err != nil {
		return
	}
	defer l.drop(server)
	l.keep(server)
	l.wg.Go(func() {
		_, _ = io.Copy(server, client) // an end is an end
		_ = server.Close()             // it may be closed
	})
	switch weather {
	case Cut:
		_, _ = io.CopyN(client, server, cutAfter) // that is the point
	case Slow:
		_, _ = io.Copy(slowly{client}, server) // an end is an end
	default:
		_, _ = io.Copy(client, server) // an end is an end
	}
}

// slowly writes byte by byte.
type slowly struct{ io.Writer }

func (s slowly) Write(p []byte) (int, error) {
	for i := range p {
		if _, err := s.Writer.Write(p[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(100 * time.Millisecond) // slowness is what it is for
	}
	return len(p), nil
}
