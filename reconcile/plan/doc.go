// Package plan decides what to do on one server: given what a commit asks for, what runs, what failed and what the
// server is, Compute returns steps, each with a reason that a person can read.
//
// It is pure: no clock, no disk, no network, no locks. The same input, in any order, gives the same plan, and a plan
// that was carried out is followed by an empty one. It must not know how a step is carried out (package reconcile does
// that), where a commit came from, or anything of Linux.
//
// Start reading at Input and Plan (types.go), then Compute (compute.go), which goes through a set name by name:
//
//   - select.go: which of a name's containers counts, which are leftovers;
//   - decide.go: what that name needs, by comparing what it was made from with what is wanted;
//   - update.go and rollback.go: how far a new container is with proving itself, and what goes back if it does not;
//   - jobs_advance.go, jobs.go and cron.go: what has run and is due (Ledger), and the containers that follow from it;
//   - backoff.go: whether it is time for it, after failures and crashes;
//   - refuse.go: whether this server can and may run it;
//   - depend.go and order.go: what has to wait for what;
//   - guards.go: whether the commit as a whole is let through;
//   - lower.go: what a manifest means to a runtime.
package plan
