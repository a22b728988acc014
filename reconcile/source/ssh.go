package source

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"
)

// sshSession speaks to git-upload-pack at the other end of an ssh connection. go-git's own cannot be interrupted during
// the handshake, and reads ~/.ssh/config and an agent unasked.
type sshSession struct {
	client *ssh.Client
	remote *ssh.Session
	stdin  io.WriteCloser
	stdout io.Reader
	stderr *lastWords
	detach func() bool
	refs   *packp.AdvRefs
	packed bool
}

// sshSession connects, checks the host key, and starts git-upload-pack. When ctx ends the connection is cut; giveUp ends
// it where the server is silent.
func (s *Source) sshSession(ctx context.Context, giveUp context.CancelCauseFunc) (_ transport.UploadPackSession, err error) {
	ep := s.at.endpoint
	addr := net.JoinHostPort(strings.Trim(ep.Host, "[]"), strconv.Itoa(cmp.Or(ep.Port, 22)))
	hosts, err := s.hostKeys(addr)
	if err != nil {
		return nil, err
	}
	signers, err := s.sshSigners()
	if err != nil {
		return nil, err
	}
	config := &ssh.ClientConfig{
		User:              cmp.Or(ep.User, "git"),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signers...)},
		HostKeyCallback:   hosts.check,
		HostKeyAlgorithms: hosts.algorithms,
		ClientVersion:     "SSH-2.0-reconciler",
	}
	dialer := net.Dialer{Timeout: s.cfg.Timeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	conn = &patientConn{Conn: conn, patience: s.cfg.Timeout, giveUp: giveUp}
	detach := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if err != nil {
			detach()
			_ = conn.Close() // the error is the news
		}
	}()
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, config)
	if err != nil {
		return nil, hosts.explain(s.sshRefused(err))
	}
	sess := &sshSession{client: ssh.NewClient(c, chans, reqs), detach: detach, stderr: &lastWords{}}
	if sess.remote, err = sess.client.NewSession(); err != nil {
		return nil, err
	}
	sess.remote.Stderr = sess.stderr
	if sess.stdin, err = sess.remote.StdinPipe(); err != nil {
		return nil, err
	}
	if sess.stdout, err = sess.remote.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := sess.remote.Start("git-upload-pack " + quoted(ep.Path)); err != nil {
		return nil, fmt.Errorf("%w: the server does not run git-upload-pack: %w", ErrProtocol, err)
	}
	return sess, nil
}

// sshRefused says what the client's error means; golang.org/x/crypto/ssh has no type for it.
func (s *Source) sshRefused(err error) error {
	if !strings.Contains(err.Error(), "unable to authenticate") {
		return err
	}
	return withHint(fmt.Errorf("%w: the server accepts none of the keys %s", ErrAuth, strings.Join(s.sshKeyFiles(), ", ")),
		"add the public key (the .pub file beside it) to the repository as a read-only deploy key, or name another with --git-ssh-key")
}

func (s *Source) sshKeyFiles() []string {
	if s.cfg.SSHKey != "" {
		return []string{s.cfg.SSHKey}
	}
	return []string{homeFile(".ssh", "id_ed25519"), homeFile(".ssh", "id_ecdsa"), homeFile(".ssh", "id_rsa")}
}

func (s *Source) sshSigners() ([]ssh.Signer, error) {
	files := s.sshKeyFiles()
	var signers []ssh.Signer
	for _, name := range files {
		signer, err := readKey(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.cfg.SSHKey == "":
			continue
		case err != nil:
			return nil, err
		}
		signers = append(signers, signer)
	}
	if len(signers) == 0 {
		return nil, withHint(fmt.Errorf("%w: there is no ssh key: none of %s exists", ErrAuth, strings.Join(files, ", ")),
			"make one with ssh-keygen -t ed25519 -N '' -f FILE, add FILE.pub to the repository as a deploy key, and give --git-ssh-key FILE")
	}
	return signers, nil
}

func readKey(name string) (ssh.Signer, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, withHint(fmt.Errorf("%w: read ssh key: %w", ErrAuth, err), "check --git-ssh-key")
	}
	if info.Mode().Perm()&0o077 != 0 { // as ssh(1) does
		return nil, withHint(fmt.Errorf("%w: ssh key %s may be read by others (mode %04o)", ErrAuth, name, info.Mode().Perm()),
			"chmod 600 "+name)
	}
	b, err := readSmall(name)
	if err != nil {
		return nil, fmt.Errorf("%w: read ssh key: %w", ErrAuth, err)
	}
	signer, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, withHint(fmt.Errorf("%w: ssh key %s is protected by a passphrase", ErrAuth, name),
			"use a deploy key without one: nobody is there to type it")
	case err != nil: // its text may repeat bytes of the file
		return nil, withHint(fmt.Errorf("%w: %s is no ssh private key", ErrAuth, name),
			"give the private key, not the .pub file")
	}
	return signer, nil
}

// quoted makes path one word for the shell at the other end (and for git-shell, which knows only this form).
func quoted(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

// AdvertisedReferencesContext reads what the server has; ctx is the one that the session was opened with.
func (s *sshSession) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	return s.AdvertisedReferences()
}

// AdvertisedReferences reads what the server has.
func (s *sshSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	if s.refs != nil {
		return s.refs, nil
	}
	refs := packp.NewAdvRefs()
	err := refs.Decode(io.LimitReader(s.stdout, maxRefsAnswer))
	switch {
	case errors.Is(err, packp.ErrEmptyAdvRefs), err == nil && refs.IsEmpty():
		return nil, transport.ErrEmptyRemoteRepository
	case err != nil:
		_ = s.remote.Wait() // for the rest of what it has to say; the error is the news
		return nil, s.refused(err)
	}
	transport.FilterUnsupportedCapabilities(refs.Capabilities)
	s.refs = refs
	return refs, nil
}

// refused explains why a server ended the conversation, from what it wrote to stderr.
func (s *sshSession) refused(err error) error {
	said := printable(s.stderr.String(), 300)
	lower := strings.ToLower(said)
	for _, words := range []string{
		"does not appear to be a git repository", "repository not found", "does not exist", "could not be found",
		"no such repository", "no such file",
	} {
		if strings.Contains(lower, words) {
			return fmt.Errorf("%w: the server says %q", ErrNotFound, said)
		}
	}
	for _, words := range []string{"denied", "not authorized", "unauthorized", "forbidden"} {
		if strings.Contains(lower, words) {
			return fmt.Errorf("%w: the server says %q", ErrAuth, said)
		}
	}
	if said != "" {
		return fmt.Errorf("%w: the server says %q", ErrProtocol, said)
	}
	return err
}

// UploadPack asks for objects and returns the stream of them.
func (s *sshSession) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s.packed = true
	// Built first, so that one write sends it: a request cut short must not look like another.
	var b bytes.Buffer
	if err := req.UploadRequest.Encode(&b); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(&b, false); err != nil {
		return nil, err
	}
	if err := pktline.NewEncoder(&b).EncodeString("done\n"); err != nil {
		return nil, err
	}
	if _, err := s.stdin.Write(b.Bytes()); err != nil {
		return nil, err
	}
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(io.NopCloser(io.LimitReader(s.stdout, maxPackAnswer))); err != nil {
		return nil, s.refused(err)
	}
	return res, nil
}

// Close ends the conversation and the connection.
func (s *sshSession) Close() error {
	s.detach()
	if !s.packed {
		_, _ = s.stdin.Write(pktline.FlushPkt) // "nothing, thank you"
	}
	_ = s.remote.Close() // may be closed by the server already
	return s.client.Close()
}

// lastWords keeps the end of what a server writes to stderr.
type lastWords struct {
	mu sync.Mutex
	b  []byte
}

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.b = append(w.b, p...)
	if extra := len(w.b) - 2048; extra > 0 {
		w.b = append(w.b[:0], w.b[extra:]...)
	}
	return len(p), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.b)
}
