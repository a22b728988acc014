package calm

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// program returns how much of this program's file is mapped and in memory, in kB, without what can be written.
func program(t *testing.T) (kB int) {
	t.Helper()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	ours := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case strings.Contains(fields[0], "-"):
			ours = strings.HasSuffix(lines.Text(), " "+self) && !strings.Contains(fields[1], "w")
		case ours && fields[0] == "Rss:":
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			kB += n
		}
	}
	return kB
}

// Neither what is garbage nor what of the program is not in use stays in memory.
func TestRest(t *testing.T) {
	before := program(t)
	Rest()
	if after := program(t); before == 0 || after >= before {
		t.Errorf("the program has %d kB in memory, and %d after a rest", before, after)
	}
}

// What of the program's file was changed in memory stays so, although it cannot be written any more: such are the
// addresses of the C library's functions.
func TestRestKeepsRelocations(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	pages, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(pages) }()
	copy(pages, "relocated")
	if err = unix.Mprotect(pages, unix.PROT_READ); err != nil {
		t.Fatal(err)
	}
	Rest()
	if got := string(pages[:9]); got != "relocated" {
		t.Errorf("it is %q after a rest", got)
	}
}

// Memory is given back once, when nothing was done for a while, and again after more work.
func TestRester(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rests atomic.Int32
		r := Rester{rest: func() { rests.Add(1) }}
		for range 5 {
			r.Worked()
			time.Sleep(quiet - 1)
		}
		if rests.Load() != 0 {
			t.Error("it rests in the middle of work")
		}
		time.Sleep(quiet)
		for want := int32(1); want <= 3; want++ {
			if got := rests.Load(); got != want {
				t.Errorf("%d rests, want %d", got, want)
			}
			r.Worked()
			time.Sleep(10 * quiet)
		}
	})
}
