package idrange

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
)

// holder makes the directory of a container.
func holder(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestNoTwoShareARange(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "ids"))
	parent := holder(t, "many")
	var mu sync.Mutex
	got := map[uint32]string{}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			dir := filepath.Join(parent, string(rune('a'+i%26))+string(rune('a'+i/26)))
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
			first, err := Open(l.dir).Lease(dir, 0)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || got[first] != "" {
				t.Errorf("%s got %d, which is %q's, %v", dir, first, got[first], err)
			}
			if first < lowest || first%Size != 0 || first > 0x7ffd_0000-Size {
				t.Errorf("%s got %#x", dir, first)
			}
			got[first] = dir
		})
	}
	wg.Wait()
	for first, dir := range got {
		if again, err := l.Lease(dir, first); err != nil || again != first {
			t.Errorf("%s had %d and got %d, %v", dir, first, again, err)
		}
		if again, err := l.Lease(dir, 0); err != nil || again != first {
			t.Errorf("%s forgot %d and got %d, %v", dir, first, again, err)
		}
	}
	holders, err := l.Holders()
	if err != nil || len(holders) != len(got) {
		t.Errorf("%d holders, %v", len(holders), err)
	}
}

func TestGivenBack(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "ids"))
	a, b := holder(t, "a"), holder(t, "b")
	if err := l.Release(a, lowest); err != nil {
		t.Errorf("nothing to give back: %v", err)
	}
	first, err := l.Lease(a, 0)
	if err != nil {
		t.Fatal(err)
	}
	// What is somebody else's is neither given back nor had again.
	if err = l.Release(b, first); err != nil || l.holder(first) != a {
		t.Errorf("b gave back a's range: %v", err)
	}
	if other, err := l.Lease(b, first); err != nil || other == first {
		t.Errorf("b got a's range: %v", err)
	}
	if err := l.Release(a, first); err != nil || l.holder(first) != "" {
		t.Errorf("a's range was not given back: %v", err)
	}
}

// Who is gone without giving back holds nothing; who is there is never robbed, also where every range is leased.
func TestRangesOfThoseWhoAreGone(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "ids"))
	alive, gone := holder(t, "alive"), holder(t, "gone")
	if err := os.Mkdir(l.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for i := range uint32(count) {
		if err := os.Symlink(alive, l.path(lowest+i*Size)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Lease(gone, 0); !errors.Is(err, ErrNoneLeft) {
		t.Errorf("got %v", err)
	}
	const one = lowest + 7*Size
	if err := errors.Join(os.Remove(l.path(one)), os.Symlink(gone, l.path(one)), os.Remove(gone)); err != nil {
		t.Fatal(err)
	}
	if first, err := l.Lease(holder(t, "new"), 0); err != nil || first != one {
		t.Errorf("got %d, %v", first, err)
	}
}

func BenchmarkLease(b *testing.B) {
	l := Open(filepath.Join(b.TempDir(), "ids"))
	dir := holder(b, "one")
	for b.Loop() {
		first, err := l.Lease(dir, 0)
		if err = errors.Join(err, l.Release(dir, first)); err != nil {
			b.Fatal(err)
		}
	}
}

// Who could make the directory before the first agent does would give the same range to two containers.
func TestOnlyRootDecidesAboutLeases(t *testing.T) {
	for at := filepath.Dir(Dir); ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s has mode %v: others could make %s", at, info.Mode(), Dir)
		}
		if at == "/" {
			return
		}
	}
}

// Whoever goes gives back what it leased, also where it was killed before it could note it.
func TestReleaseAll(t *testing.T) {
	l := Open(filepath.Join(t.TempDir(), "ids"))
	mine, other := holder(t, "mine"), holder(t, "other")
	for _, holder := range []string{mine, other} {
		if _, err := l.Lease(holder, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.ReleaseAll(mine); err != nil {
		t.Fatal(err)
	}
	holders, err := l.Holders()
	if err != nil || len(holders) != 1 || slices.Collect(maps.Values(holders))[0] != other {
		t.Errorf("left: %v %v, want that of %s alone", holders, err, other)
	}
}
