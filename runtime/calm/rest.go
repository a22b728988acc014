package calm

import (
	"bufio"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// quiet is how long nothing has to be worked on until memory is given back.
const quiet = 3 * time.Second

// working is how much garbage, in percent of what is in use, may gather until the collector runs while there is work: four times
// what Go allows, so that it runs a quarter as often.
const working = 400

// Rester gives memory back once work is over, and is generous with it before. The zero value is ready. It costs nothing
// while nothing is done.
type Rester struct {
	mu      sync.Mutex
	timer   *time.Timer
	busy    bool
	percent int    // of garbage, at rest
	rest    func() // instead of Rest, in tests
}

// Worked says that something was done that took memory: it is given back when nothing was done for a while.
func (r *Rester) Worked() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.busy {
		r.busy, r.percent = true, debug.SetGCPercent(working)
	}
	if r.timer != nil {
		r.timer.Reset(quiet)
		return
	}
	r.timer = time.AfterFunc(quiet, r.over)
}

func (r *Rester) over() {
	r.mu.Lock()
	r.busy = false
	debug.SetGCPercent(r.percent)
	r.mu.Unlock()
	if r.rest != nil {
		r.rest()
		return
	}
	Rest()
}

// Rest gives back what a process that has nothing to do does not need: what the garbage collector keeps for the next
// burst, and the pages of the program itself that only the burst, or starting, needed.
func Rest() {
	debug.FreeOSMemory()
	unmapProgram()
}

// unmapProgram takes the pages of this program's file out of this process. They stay in the page cache, and those that
// are needed come back, by 64 KiB. Without the advice against huge pages one touch would bring back 2 MiB: of a program
// of 28 MB all would always count as in use.
func unmapProgram() {
	for _, pages := range programPages() {
		_ = unix.Madvise(pages, unix.MADV_NOHUGEPAGE)
		_ = unix.Madvise(pages, unix.MADV_DONTNEED)
	}
}

// programPages returns what is mapped of this program's file and is as it is in the file. That it cannot be written is not
// enough: the linker relocates addresses and then makes them read-only, and they would come back as they were before.
func programPages() (all [][]byte) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return nil
	}
	defer func() { _ = maps.Close() }()
	var pages []byte // of the mapping that is being told of
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 00403000-0110f000 r-xp 00003000 fe:00 9978643    /usr/local/bin/reconciler
		// Anonymous:             0 kB
		// Swap:                  0 kB
		line := lines.Text()
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 2 && strings.Contains(fields[0], "-"):
			pages = nil
			from, to, _ := strings.Cut(fields[0], "-")
			start, err1 := strconv.ParseUint(from, 16, 64)
			end, err2 := strconv.ParseUint(to, 16, 64)
			if err1 == nil && err2 == nil && strings.HasSuffix(line, " "+self) && !strings.Contains(fields[1], "w") {
				pages = unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(nil), start)), end-start)
			}
		case pages == nil || len(fields) < 2:
		case fields[0] == "Anonymous:" && fields[1] != "0":
			pages = nil
		case fields[0] == "Swap:" && fields[1] == "0": // it comes after the other
			all = append(all, pages)
		}
	}
	return all
}
