package rootfs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"reconciler/runtime"
)

// The shape of the file systems that are made here: the same on every server, whatever its mke2fs.conf says.
const (
	blockSize   = 4096
	inodeSize   = 256
	groupBlocks = 8 * blockSize // as many as one block of bits can count
	// An inode for every 8 KiB: twice what mke2fs gives a large file system, since images are full of small files. It
	// costs 3 % of room, which is not taken from what can be used.
	groupInodes    = groupBlocks * blockSize / (8 << 10)
	descriptorSize = 64 // of a group, with the feature 64bit
	// mke2fs and resize2fs leave out a last group with less than 50 blocks for data.
	leastLastGroup = 64
	// features are those that Linux 5.12 and e2fsprogs 1.46 know. There is no journal in a writable layer, which never
	// outlives a crash, and no resize_inode, which keeps room free for growing while mounted.
	features = "none,64bit,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,metadata_csum,sparse_super"
)

// ext4 is the shape of one file system.
type ext4 struct {
	inodes  int64 // in each group
	journal int64 // blocks
}

// newExt4 is the shape of a new file system for size bytes.
func newExt4(size, journal int64) ext4 {
	e := ext4{inodes: groupInodes, journal: journal}
	// One group of fewer blocks needs fewer inodes; a block holds some of them, and is filled.
	const inBlock = blockSize / inodeSize
	small := ext4{inodes: (size/(8<<10)/inBlock + 1) * inBlock, journal: journal}
	if small.inodes < e.inodes && small.groups(size) == 1 {
		return small
	}
	return e
}

// blocks returns how many blocks a file system needs so that size bytes of it can be used: df shows size, or up to a
// quarter MiB less. The rest of the blocks are what ext4 calls overhead.
func (e ext4) blocks(size int64) int64 {
	n := e.groups(size)
	all := size/blockSize + e.overhead(n)
	if n > 1 && all-(n-1)*groupBlocks < e.overhead(n)-e.overhead(n-1)+leastLastGroup {
		return (n - 1) * groupBlocks
	}
	return all
}

// groups returns how many groups of blocks hold size bytes.
func (e ext4) groups(size int64) int64 {
	n := max(1, size/blockSize/groupBlocks)
	for size/blockSize+e.overhead(n) > n*groupBlocks {
		n++
	}
	return n
}

// overhead returns the blocks of n groups that hold no data: each has two blocks of bits and its inodes, some have a copy
// of the superblock and of the descriptors of all groups.
func (e ext4) overhead(n int64) int64 {
	descriptors := (n*descriptorSize + blockSize - 1) / blockSize
	copies := int64(1)
	if n > 1 {
		copies++
	}
	for _, base := range []int64{3, 5, 7} { // sparse_super: groups 0, 1 and the powers of these
		for at := base; at < n; at *= base {
			copies++
		}
	}
	return n*(2+e.inodes*inodeSize/blockSize) + copies*(1+descriptors) + e.journal
}

// format makes a file system for size bytes in image, which has that many blocks already and nothing but zeros in them.
func (e ext4) format(ctx context.Context, image *os.File, size int64) error {
	with, blocks := features, e.blocks(size)
	groups := (blocks + groupBlocks - 1) / groupBlocks
	args := []string{
		"-q", "-F", "-b", strconv.Itoa(blockSize), "-I", strconv.Itoa(inodeSize), "-N", strconv.FormatInt(e.inodes*groups, 10),
		"-m", "0", // no blocks for root alone
		"-e", "remount-ro", // and never continue or panic after an error in it
		// discard would give back the room that is reserved for image. The inodes are zeros already.
		"-E", "nodiscard,lazy_itable_init=1",
	}
	if e.journal > 0 {
		with += ",has_journal"
		args = append(args, "-J", "size="+strconv.FormatInt(e.journal*blockSize>>20, 10))
	}
	// By descriptor: of a path that is removed meanwhile, as after this process was killed, mkfs would make a new file.
	args = append(args, "-O", with, "/proc/self/fd/3", strconv.FormatInt(blocks, 10))
	return runTool(ctx, image, "mkfs.ext4", args...)
}

// resizeExt4 makes the file system in image, which is not mounted, that many blocks long, which the image has already. Its
// content stays. It is never stopped halfway, and who holds lock is kept out for as long as it takes, also where this
// process dies.
func resizeExt4(ctx context.Context, lock *os.File, image string, blocks int64) error {
	ctx = context.WithoutCancel(ctx)
	// resize2fs insists on a check. 1: errors were corrected.
	err := runTool(ctx, lock, "e2fsck", "-f", "-p", image)
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() != 1) {
		return err
	}
	return runTool(ctx, lock, "resize2fs", image, strconv.FormatInt(blocks, 10))
}

// usage is what the superblock of a file system that is not mounted says.
type usage struct {
	shape ext4
	used  int64 // bytes, of files and directories
}

// readExt4 reads the superblock in image.
// https://www.kernel.org/doc/html/latest/filesystems/ext4/super.html
func readExt4(image string) (usage, error) {
	f, err := os.Open(image)
	if err != nil {
		return usage{}, err
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1024)
	if _, err = f.ReadAt(b, 1024); err != nil {
		return usage{}, err
	}
	at := func(offset int) int64 { return int64(binary.LittleEndian.Uint32(b[offset:])) }
	if binary.LittleEndian.Uint16(b[0x38:]) != 0xef53 || at(0x18) != 2 {
		return usage{}, fmt.Errorf("%s: not a file system of ours", image)
	}
	e := ext4{inodes: at(0x28), journal: at(0x10c+16*4) / blockSize} // the size in the copy of the journal's inode
	blocks, free := at(0x4)|at(0x150)<<32, at(0xc)|at(0x158)<<32
	groups := (blocks + groupBlocks - 1) / groupBlocks
	return usage{shape: e, used: (blocks - free - e.overhead(groups)) * blockSize}, nil
}

var errNoTool = errors.New("it is not on this server")

// tool finds a program of e2fsprogs, also where the directories for root's programs are not on PATH.
func tool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &runtime.Error{
		Op: "find " + name, Err: errNoTool, Reason: runtime.ReasonIncompatible, Permanent: true, Hint: "install e2fsprogs",
	}
}

// runTool runs a program of e2fsprogs, which has file as its descriptor 3.
func runTool(ctx context.Context, file *os.File, name string, args ...string) error {
	path, err := tool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.ExtraFiles = []*os.File{file}
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	why := strings.Join(strings.Fields(string(bytes.ToValidUTF8(out, nil))), " ")
	return fmt.Errorf("%s: %w: %s", name, err, why)
}
