// Package journal keeps what Git and registries cannot rebuild: what was decided, what was done and why it failed
// (an append-only record), and the state that must outlive a reboot (the accepted set, approvals, histories).
//
// It owns the files below its directory and their formats: segments of checksummed JSON lines, state.json, the sets
// that state.json names, and the lock that keeps a second agent out. It must not know how decisions are made or how
// they are shown. A torn tail is cut, a damaged line is skipped and counted, and a damaged state file is moved aside and
// told of, never taken for an empty one.
//
// Start reading at Store.
package journal
