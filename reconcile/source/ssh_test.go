package source_test

import (
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"reconciler/reconcile/source"
	"reconciler/reconcile/source/sourcetest"
)

func TestHostKeys(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	cfg := source.Config{URL: d.URL(r.Bare), SSHKey: d.Key, KnownHosts: d.KnownHosts}
	known, err := os.ReadFile(d.KnownHosts)
	if err != nil {
		t.Fatal(err)
	}
	with := func(text string) source.Config {
		c := cfg
		c.KnownHosts = file(t, text)
		return c
	}
	scan := "ssh-keyscan -p " + d.Port + " 127.0.0.1 >> "

	missing := cfg
	missing.KnownHosts = filepath.Join(t.TempDir(), "gone")
	_, err = open(t, missing).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, missing.KnownHosts, scan+missing.KnownHosts)

	unknown := with("example.com " + strings.SplitN(string(known), " ", 2)[1])
	_, err = open(t, unknown).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, d.Addr+" is not in", d.Fingerprint, scan)
	if b, _ := os.ReadFile(unknown.KnownHosts); strings.Contains(string(b), d.Port) {
		t.Error("the key was accepted silently")
	}

	otherKey := filepath.Join(t.TempDir(), "other")
	sourcetest.NewKey(t, otherKey)
	pub, err := os.ReadFile(otherKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(t, with("[127.0.0.1]:"+d.Port+" "+string(pub))).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, "has changed", d.Fingerprint, ":1 has", "ssh-keygen -R '[127.0.0.1]:"+d.Port+"'")

	_, err = open(t, with("@revoked "+string(known))).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, "revoked")

	_, err = open(t, with("nonsense\n")).Fetch(t.Context())
	refused(t, err, source.ErrHostKey)

	// Another type of key is known: it must not be taken for no key.
	rsa := "[127.0.0.1]:" + d.Port + " ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBEmKSENjQEezOmxkZMy7opKgwFB9nkt5YRrYMjNuG5N87uRgg6CLrbo5wAdT/y6v0mKV0U2w0WZ2YB/++Tpockg=\n"
	_, err = open(t, with(rsa)).Fetch(t.Context())
	refused(t, err, source.ErrHostKey)

	// Revoked counts more than known.
	_, err = open(t, with(string(known)+"@revoked * "+strings.SplitN(string(known), " ", 2)[1])).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, "revoked", ":2")

	// The key of the same host at another port is not that of this one.
	_, err = open(t, with("[127.0.0.1]:1 "+strings.SplitN(string(known), " ", 2)[1])).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, d.Addr+" is not in")

	// Names that are hashed, among others, or a pattern.
	hashed := with("example.com " + strings.SplitN(string(known), " ", 2)[1] + "# a comment\n\n" + string(known))
	sourcetest.HashKnownHosts(t, hashed.KnownHosts)
	if b, _ := os.ReadFile(hashed.KnownHosts); strings.Contains(string(b), "127.0.0.1") {
		t.Fatalf("not hashed: %s", b)
	}
	fetched(t, open(t, hashed), commit)
	fetched(t, open(t, with("[127.0.0.*]:"+d.Port+" "+strings.SplitN(string(known), " ", 2)[1])), commit)
	_, err = open(t, with("![127.0.0.1]:"+d.Port+",[127.0.0.*]:"+d.Port+" "+strings.SplitN(string(known), " ", 2)[1])).Fetch(t.Context())
	refused(t, err, source.ErrHostKey)

	// Read at each use: what a person puts right counts at once.
	s := open(t, unknown)
	if err := os.WriteFile(unknown.KnownHosts, known, 0o600); err != nil {
		t.Fatal(err)
	}
	fetched(t, s, commit)
}

// Servers whose keys are signed by an authority.
func TestHostCertificates(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	authority := filepath.Join(t.TempDir(), "authority")
	sourcetest.NewKey(t, authority)
	pub, err := os.ReadFile(authority + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	sourcetest.NewKey(t, other)
	otherPub, err := os.ReadFile(other + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	try := func(d *sourcetest.SSHServer, knownHosts string) (*source.Source, error) {
		s := open(t, source.Config{URL: d.URL(r.Bare), SSHKey: d.Key, KnownHosts: file(t, knownHosts)})
		_, fetchErr := s.Fetch(t.Context())
		return s, fetchErr
	}
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{Authority: authority, Principal: "127.0.0.1"})
	trust := "@cert-authority [127.0.0.1]:" + d.Port + " "
	s, err := try(d, trust+string(pub))
	if err != nil {
		t.Fatal(err)
	}
	fetched(t, s, commit)
	_, err = try(d, trust+string(otherPub))
	refused(t, err, source.ErrHostKey, "certificate of "+d.Addr, "SHA256:", "@cert-authority")
	_, err = try(d, trust+string(pub)+"@revoked * "+string(pub))
	refused(t, err, source.ErrHostKey, "revoked")
	_, err = try(d, "@cert-authority example.com "+string(pub))
	refused(t, err, source.ErrHostKey, "certificate of "+d.Addr, "no authorities")

	d = sourcetest.SSHD(t, sourcetest.SSHOptions{Authority: authority, Principal: "other.example.com"})
	_, err = try(d, "@cert-authority [127.0.0.1]:"+d.Port+" "+string(pub))
	refused(t, err, source.ErrHostKey, "certificate of "+d.Addr, "principal")
	// A server without a certificate is not vouched for by the authority.
	d = sourcetest.SSHD(t, sourcetest.SSHOptions{})
	_, err = try(d, "@cert-authority [127.0.0.1]:"+d.Port+" "+string(pub))
	refused(t, err, source.ErrHostKey)
}

func TestSSHKeys(t *testing.T) {
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	cfg := source.Config{URL: d.URL(r.Bare), SSHKey: d.Key, KnownHosts: d.KnownHosts}
	stranger := filepath.Join(t.TempDir(), "stranger")
	sourcetest.NewKey(t, stranger)
	readable := filepath.Join(t.TempDir(), "readable")
	sourcetest.NewKey(t, readable)
	if err := os.Chmod(readable, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ key, words string }{
		"not let in": {stranger, "accepts none of the keys " + stranger},
		"missing":    {stranger + "-gone", "no such file"},
		"public":     {file(t, "ssh-ed25519 AAAA"), "no ssh private key"},
		"readable":   {readable, "chmod 600"},
	} {
		bad := cfg
		bad.SSHKey = c.key
		_, err := open(t, bad).Fetch(t.Context())
		t.Log(name)
		refused(t, err, source.ErrAuth, c.words)
	}

	// The keys and hosts of ~/.ssh are used where no others are given; an agent never is.
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", filepath.Join(home, "agent-that-must-not-be-asked"))
	none := source.Config{URL: cfg.URL}
	_, err := open(t, none).Fetch(t.Context())
	refused(t, err, source.ErrHostKey, filepath.Join(home, ".ssh", "known_hosts"))
	if err = os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err = os.Link(d.KnownHosts, filepath.Join(home, ".ssh", "known_hosts")); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, none).Fetch(t.Context())
	refused(t, err, source.ErrAuth, "there is no ssh key", "id_ed25519", "ssh-keygen", "--git-ssh-key")
	if err := os.Link(d.Key, filepath.Join(home, ".ssh", "id_ed25519")); err != nil {
		t.Fatal(err)
	}
	fetched(t, open(t, none), commit)
}

// Paths that a shell would take apart arrive whole.
func TestSSHPathQuoting(t *testing.T) {
	t.Parallel()
	r := sourcetest.NewRepo(t)
	commit := r.CommitPush("one", sourcetest.Files{"a.yaml": "1"})
	odd := filepath.Join(r.Root, "it's $(touch pwned) odd!.git")
	if err := os.Rename(r.Bare, odd); err != nil {
		t.Fatal(err)
	}
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	url := d.URL(strings.NewReplacer(" ", "%20", "$", "%24").Replace(odd))
	fetched(t, open(t, source.Config{URL: url, SSHKey: d.Key, KnownHosts: d.KnownHosts}), commit)
}

// A server that takes the connection and says nothing must not hold the agent: not before, in, or after the handshake.
func TestSSHServerThatHangs(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			conn, acceptErr := l.Accept()
			if acceptErr != nil {
				return
			}
			defer func() { _ = conn.Close() }()
		}
	}()
	d := sourcetest.SSHD(t, sourcetest.SSHOptions{})
	s := open(t, source.Config{URL: "ssh://git@" + l.Addr().String() + "/x.git", SSHKey: d.Key, KnownHosts: d.KnownHosts, Timeout: 200 * time.Millisecond})
	_, err = s.Fetch(t.Context())
	refused(t, err, source.ErrUnreachable)

	for name, command := range map[string]string{
		"after the handshake":     "cat >/dev/null",
		"in the list of branches": "printf 00; cat >/dev/null",
		"before the pack":         `eval "$SSH_ORIGINAL_COMMAND" | { dd bs=1 count=600 2>/dev/null; sleep 10; }`,
		"drips in the list":       `eval "$SSH_ORIGINAL_COMMAND" | for i in $(seq 200); do dd bs=1 count=1 2>/dev/null || exit; sleep 0.1; done`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := sourcetest.NewRepo(t)
			var text strings.Builder
			for range 100 { // of which no pack makes a few bytes
				text.WriteString(rand.Text())
			}
			r.CommitPush("one", sourcetest.Files{"a.yaml": text.String()})
			d := sourcetest.SSHD(t, sourcetest.SSHOptions{Command: command})
			s := open(t, source.Config{URL: d.URL(r.Bare), SSHKey: d.Key, KnownHosts: d.KnownHosts, Timeout: time.Second})
			_, err := s.Fetch(t.Context())
			refused(t, err, source.ErrUnreachable)
		})
	}
}
