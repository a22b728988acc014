package sourcetest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Repo is a bare repository and a clone with a work tree, in which the test makes commits that it pushes.
type Repo struct {
	tb testing.TB
	// Root is the directory that Bare is in: what a server serves.
	Root string
	// Bare is the bare repository, Root/fleet.git.
	Bare string
	// Work is the clone with the work tree.
	Work string
}

// Files are what a commit writes: content by slash-separated path. A content that begins with Symlink makes a symbolic
// link, Removed removes the file.
type Files map[string]string

// Marks in Files.
const (
	Symlink = "symlink:"
	Removed = "\x00removed"
)

// NewRepo makes an empty repository whose branch is main.
func NewRepo(tb testing.TB) *Repo {
	tb.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		tb.Skip("needs git: apt-get install git")
	}
	root := tb.TempDir()
	r := &Repo{tb: tb, Root: root, Bare: filepath.Join(root, "fleet.git"), Work: filepath.Join(tb.TempDir(), "work")}
	r.git(root, "init", "--quiet", "--bare", "--initial-branch=main", r.Bare)
	r.git(root, "init", "--quiet", "--initial-branch=main", r.Work)
	r.Git("remote", "add", "origin", r.Bare)
	return r
}

// Git runs git in the work tree and returns what it prints, trimmed.
func (r *Repo) Git(args ...string) string {
	r.tb.Helper()
	return r.git(r.Work, args...)
}

// InBare runs git in the bare repository.
func (r *Repo) InBare(args ...string) string {
	r.tb.Helper()
	return r.git(r.Bare, args...)
}

func (r *Repo) git(dir string, args ...string) string {
	r.tb.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = Env()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		r.tb.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

// Env is an environment in which git ignores the configuration of whoever runs the test.
func Env() []string {
	return append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada Lovelace", "GIT_AUTHOR_EMAIL=ada@example.com",
		"GIT_COMMITTER_NAME=Ada Lovelace", "GIT_COMMITTER_EMAIL=ada@example.com",
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always",
		"GIT_CONFIG_KEY_1=gc.auto", "GIT_CONFIG_VALUE_1=0")
}

// Write writes files into the work tree.
func (r *Repo) Write(files Files) {
	r.tb.Helper()
	WriteTree(r.tb, r.Work, files)
}

// Commit writes files, commits everything in the work tree, and returns the commit.
func (r *Repo) Commit(message string, files Files) string {
	r.tb.Helper()
	r.Write(files)
	r.Git("add", "--all")
	r.Git("commit", "--quiet", "--allow-empty", "--message", message)
	return r.Head()
}

// Head returns the work tree's commit.
func (r *Repo) Head() string {
	r.tb.Helper()
	return r.Git("rev-parse", "HEAD")
}

// Push pushes the work tree's commit to main, even where that moves it sideways.
func (r *Repo) Push() {
	r.tb.Helper()
	r.Git("push", "--quiet", "--force", "origin", "HEAD:refs/heads/main")
}

// CommitPush commits and pushes.
func (r *Repo) CommitPush(message string, files Files) string {
	r.tb.Helper()
	commit := r.Commit(message, files)
	r.Push()
	return commit
}

// WriteTree writes files below dir.
func WriteTree(tb testing.TB, dir string, files Files) {
	tb.Helper()
	for name, content := range files {
		if err := writeOne(filepath.Join(dir, filepath.FromSlash(name)), content); err != nil {
			tb.Fatal(err)
		}
	}
}

func writeOne(p, content string) error {
	if content == Removed {
		return os.RemoveAll(p)
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if target, ok := strings.CutPrefix(content, Symlink); ok {
		_ = os.Remove(p) // one may be there
		return os.Symlink(target, p)
	}
	return writeFile(p, []byte(content), 0o644)
}

// writeFile replaces a file at once, so that a watcher sees one change.
func writeFile(p string, content []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(p), ".new-*")
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), p); err != nil {
		return fmt.Errorf("write %s: %w", p, err)
	}
	return nil
}
