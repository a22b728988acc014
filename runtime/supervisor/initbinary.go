package supervisor

/*
#cgo CFLAGS: -O1 -fno-stack-protector -fno-asynchronous-unwind-tables -fvisibility=hidden -fPIC
#cgo amd64 CFLAGS: -mno-sse
const void *reconciler_init_start(void);
unsigned long reconciler_init_size(void);
unsigned long reconciler_init_entry(void);
// What they return is in init.c.
*/
import "C"

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"unsafe"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

const (
	initBase = 0x400000 // where static programs are usually put
	initPage = 0x10000  // the largest page that Linux has on the architectures we know
)

func initPath(runDir string) string { return filepath.Join(runDir, "init") }

// InitBinary writes the tiny init for containers with `init: true` into runDir, once, and returns its path. Bind-mount
// it read-only into the container (at /dev/init, say) and put that path and "--" before the command. It passes signals
// on to the command, collects orphans and ends with the command's exit code, 128 + signal for a signal; a command that
// cannot be executed gives 127 (not found) or 126. It may be called at any time, concurrently too.
func InitBinary(runDir string) (string, error) {
	const op = "write the init for containers"
	image, err := initImage()
	if err != nil {
		return "", &runtime.Error{Op: op, Err: err, Permanent: true}
	}
	path := initPath(runDir)
	if have, rerr := os.ReadFile(path); rerr == nil && bytes.Equal(have, image) {
		return path, nil
	}
	failpoint.Here("init: none")
	f, err := os.CreateTemp(runDir, ".init.*.tmp")
	if err != nil {
		return "", &runtime.Error{Op: op, Err: err}
	}
	failpoint.Here("init: empty")
	_, err = f.Write(image)
	if err = errors.Join(err, f.Chmod(0o555), f.Close()); err == nil {
		failpoint.Here("init: whole beside")
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return "", &runtime.Error{Op: op, Err: err}
	}
	failpoint.Here("init: there")
	return path, nil
}

// initImage makes a static ELF file of the code in init.c: its header, two program headers and the code.
func initImage() ([]byte, error) {
	machine, ok := hostMachine()
	size := int(C.reconciler_init_size())
	if !ok || size == 0 {
		return nil, fmt.Errorf("not supported on %s", goruntime.GOARCH)
	}
	start := C.reconciler_init_start()
	code := unsafe.Slice((*byte)(start), size)
	// Where the code stands within a page is kept: arm64 addresses by pages.
	at := initPage + int(uintptr(start)%initPage)
	header := elf.Header64{
		Ident:   [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:    uint16(elf.ET_EXEC),
		Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
		Entry: uint64(initBase + at + int(C.reconciler_init_entry())),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2, Shentsize: 64,
	}
	// The file begins with a hole of up to two pages: the code's place in the file and in memory must agree modulo the
	// page size, and headers and code are mapped as one.
	load := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: initBase, Paddr: initBase, Filesz: uint64(at + size), Memsz: uint64(at + size), Align: initPage,
	}
	stack := elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: uint32(elf.PF_R | elf.PF_W), Align: 16}
	var b bytes.Buffer
	for _, v := range []any{header, load, stack} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	return append(append(b.Bytes(), make([]byte, at-b.Len())...), code...), nil
}
