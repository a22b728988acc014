package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"reconciler/reconcile/source"
)

// gitRows measures our source beside the git program, both against git http-backend: nothing new, a first clone, one new
// commit. Ours is a warm process, as the agent is one; git is a program that starts each time, as it is used.
func (b *bench) gitRows() (err error) {
	dir := filepath.Join(b.dir, "git")
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r, err := b.manyCommits(dir)
	if err != nil {
		return err
	}
	server, err := b.serveGit(dir)
	if err != nil {
		return err
	}
	defer server.Close()
	url := server.URL + "/fleet.git"
	ctx := context.Background()

	var mine, theirs []float64
	var src *source.Source
	clone := ""
	for i := range times {
		if src, err = source.Open(source.Config{URL: url, StateDir: filepath.Join(dir, fmt.Sprint("state-", i))}); err != nil {
			return err
		}
		began := time.Now()
		if _, err := src.Fetch(ctx); err != nil {
			return err
		}
		mine = append(mine, millis(time.Since(began)))
		clone = filepath.Join(dir, fmt.Sprint("clone-", i))
		_, took, err := b.do(nil, "/usr/bin/git", "clone", "--quiet", "--bare", "--depth", "1", url, clone)
		if err != nil {
			return err
		}
		theirs = append(theirs, millis(took))
	}
	b.set("git-clone", ours, median(mine))
	b.set("git-clone", git, median(theirs))

	fetch := func() (float64, error) {
		_, took, err := b.do(nil, "/usr/bin/git", "-C", clone, "fetch", "--quiet", "origin", "main:main")
		return millis(took), err
	}
	mine, theirs = nil, nil
	asked := 0.
	for range 4 * times {
		before, began := server.requests.Load(), time.Now()
		if _, err := src.Fetch(ctx); err != nil {
			return err
		}
		mine = append(mine, millis(time.Since(began)))
		asked = max(asked, float64(server.requests.Load()-before))
		took, err := fetch()
		if err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	b.set("git-nothing", ours, median(mine))
	b.set("git-nothing", git, median(theirs))
	b.set("git-requests", ours, asked)

	mine, theirs = nil, nil
	for i := range times {
		if err := r.commitPush(map[string]string{"apps/00/0000.yaml": fmt.Sprint("new ", i)}); err != nil {
			return err
		}
		began := time.Now()
		if _, err := src.Fetch(ctx); err != nil {
			return err
		}
		mine = append(mine, millis(time.Since(began)))
		took, err := fetch()
		if err != nil {
			return err
		}
		theirs = append(theirs, took)
	}
	b.set("git-one", ours, median(mine))
	b.set("git-one", git, median(theirs))
	return nil
}

// manyCommits makes a repository of 2,000 files and 2,000 commits, packed, with a work tree of its newest commit.
func (b *bench) manyCommits(dir string) (*repository, error) {
	r, err := b.newRepository(dir)
	if err != nil {
		return nil, err
	}
	const n = 2000
	var s strings.Builder
	for i := range n {
		fmt.Fprintf(&s, "commit refs/heads/main\ncommitter a <a@example.com> %d +0000\ndata 6\nchange\n", 1_700_000_000+i)
		text := fmt.Sprintf("name: app-%d\n%0900d\n", i, i*7919)
		fmt.Fprintf(&s, "M 644 inline apps/%02d/%04d.yaml\ndata %d\n%s\n", i%50, i, len(text), text)
	}
	stream := filepath.Join(dir, "stream")
	if err = os.WriteFile(stream, []byte(s.String()), 0o644); err != nil {
		return nil, err
	}
	if _, _, err = b.do(nil, "/bin/sh", "-c", "git -C \"$1\" fast-import --quiet <\"$2\" && git -C \"$1\" gc --quiet", "sh", r.bare, stream); err != nil {
		return nil, err
	}
	_, err = r.git("-C", r.work, "pull", "-q", r.bare, "main")
	return r, err
}
