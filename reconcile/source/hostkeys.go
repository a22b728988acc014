package source

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys holds the keys by which a server may identify itself, and why it was turned away.
type hostKeys struct {
	inner      ssh.HostKeyCallback
	algorithms []string
	addr       string
	files      []string
	refusal    error
}

// hostKeys reads the known_hosts files, at every connection.
func (s *Source) hostKeys(addr string) (*hostKeys, error) {
	files := []string{s.cfg.KnownHosts}
	if s.cfg.KnownHosts == "" {
		files = []string{homeFile(".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	h := &hostKeys{addr: addr, files: files}
	var there []string
	for _, name := range files {
		_, err := os.Stat(name)
		switch {
		case err == nil:
			there = append(there, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: read known hosts: %w", ErrHostKey, err)
		}
	}
	if len(there) == 0 {
		return nil, withHint(fmt.Errorf("%w: there is no %s to check the key of %s against", ErrHostKey, strings.Join(files, " or "), addr),
			h.scan())
	}
	db, err := knownhosts.NewDB(there...)
	if err != nil {
		return nil, withHint(fmt.Errorf("%w: read known hosts: %w", ErrHostKey, err), "correct that line, or remove it")
	}
	h.inner, h.algorithms = db.HostKeyCallback(), db.HostKeyAlgorithms(addr)
	return h, nil
}

// scan is the command that fetches the host's keys. It trusts the network, so it comes with a warning.
func (h *hostKeys) scan() string {
	host, port, _ := net.SplitHostPort(h.addr)
	cmd := "ssh-keyscan "
	if port != "22" {
		cmd += "-p " + port + " "
	}
	return cmd + host + " >> " + h.files[0] + ", after comparing the fingerprint (ssh-keygen -lf FILE) with one that you trust"
}

// check is the ssh.HostKeyCallback. It only ever says yes to a key that is in the files.
func (h *hostKeys) check(hostname string, remote net.Addr, key ssh.PublicKey) error {
	err := h.inner(hostname, remote, key)
	if err == nil {
		return nil
	}
	offered := key.Type() + " " + ssh.FingerprintSHA256(key)
	var mismatch *xknownhosts.KeyError
	var revoked *xknownhosts.RevokedError
	cert, isCert := key.(*ssh.Certificate)
	switch {
	case isCert:
		h.refusal = withHint(fmt.Errorf("%w: the certificate of %s, signed by %s %s, is refused: %s", ErrHostKey, h.addr,
			cert.SignatureKey.Type(), ssh.FingerprintSHA256(cert.SignatureKey), printable(err.Error(), 200)),
			"ask whoever signs the certificates of the server; a @cert-authority line of "+strings.Join(h.files, " or ")+" says whose are trusted")
	case errors.As(err, &revoked):
		h.refusal = withHint(fmt.Errorf("%w: the key of %s (%s) is revoked in %s:%d", ErrHostKey, h.addr, offered,
			revoked.Revoked.Filename, revoked.Revoked.Line), "do not connect; ask whoever runs the server")
	case errors.As(err, &mismatch) && len(mismatch.Want) > 0:
		want := mismatch.Want[0]
		h.refusal = withHint(fmt.Errorf("%w: the key of %s has changed: it offers %s, but %s:%d has %s %s: somebody may be in between",
			ErrHostKey, h.addr, offered, want.Filename, want.Line, want.Key.Type(), ssh.FingerprintSHA256(want.Key)),
			fmt.Sprintf("if the server was really given a new key: ssh-keygen -R '%s' -f %s, then %s",
				xknownhosts.Normalize(h.addr), want.Filename, h.scan()))
	default:
		h.refusal = withHint(fmt.Errorf("%w: %s is not in %s; it offers the key %s", ErrHostKey, h.addr, strings.Join(h.files, " or "), offered),
			h.scan())
	}
	return h.refusal
}

// explain returns the refusal in place of the handshake error that came of it.
func (h *hostKeys) explain(err error) error {
	if h.refusal != nil {
		return h.refusal
	}
	var none *ssh.AlgorithmNegotiationError
	if errors.As(err, &none) && none.What == "host key" {
		return withHint(fmt.Errorf("%w: the known keys of %s are of types that it does not offer (it has %s)",
			ErrHostKey, h.addr, printable(strings.Join(none.RequestedAlgorithms, ", "), 200)), h.scan())
	}
	return err
}
