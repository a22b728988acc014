// Package runtimetest is the conformance suite of package runtime: Run holds an implementation to every rule that the
// comments of runtime.Runtime state. The fake and the real runtime both pass it, so that what is shown on the fake
// means something.
//
// It must not know any implementation. It never sleeps: it waits for hints and looks at List.
//
// Start reading at Env: what an implementation brings along.
package runtimetest
