package runtime

import "time"

// MaxExecOutput is how much of a command's output ExecResult keeps, in bytes: the last of it.
const MaxExecOutput = 10 << 10

// ExecResult is how a command in a container ended.
type ExecResult struct {
	Code   int    // exit code, 128 + signal for a signal
	Output []byte // what it wrote to both of its outputs, the last MaxExecOutput bytes
}

// Stats is what a running container uses now. What this server cannot measure is zero.
type Stats struct {
	ID   ID        `json:"id"`
	Name Name      `json:"name"`
	Time time.Time `json:"time"`
	// CPU is the time that its processes have had since its start.
	CPU time.Duration `json:"-"`
	// Memory is in bytes, without the cache that the kernel gives back when it needs room; MemoryLimit is 0 without one.
	Memory      int64 `json:"memory"`
	MemoryLimit int64 `json:"memoryLimit,omitempty"`
	Pids        int64 `json:"pids"`
	PidsLimit   int64 `json:"pidsLimit,omitempty"`
	// DiskRead and DiskWritten are bytes to and from block devices since its start; Disk is what its writable layer holds.
	DiskRead    int64 `json:"diskRead"`
	DiskWritten int64 `json:"diskWritten"`
	Disk        int64 `json:"disk"`
	DiskLimit   int64 `json:"diskLimit,omitempty"`
	// NetworkReceived and NetworkSent are bytes through its own interface since its start; 0 on the server's network.
	NetworkReceived int64 `json:"networkReceived"`
	NetworkSent     int64 `json:"networkSent"`
}

// Repaired is something that was not as it was left, and is again.
type Repaired struct {
	ID   ID   // of the container; empty: of all of them
	Name Name // likewise
	What string
}
