// Package reconcile is the loop: fetch, load, list, plan, apply, record.
//
// It owns when something is looked at, the carrying out of a plan's steps, the counting of failures and the writing of
// state. One goroutine decides (loop); each step is carried out in a goroutine of its own (executor) and reports back
// through the loop's inbox. It must not know Git (Source is the interface that it needs), Linux (runtime.Runtime) or how
// a plan comes about (reconcile/plan), nor how a container is probed (reconcile/probe).
//
// Level-triggered: Runtime.List is the truth. A trigger (poll, watch, exit, request, finished step, timer) only puts a
// token in a channel of size 1, so that bursts coalesce.
//
// Start reading at Agent, then loop.turn.
package reconcile
