// Package leak checks that a test which made real containers left nothing of them behind: no process, cgroup, mount,
// network namespace or loop device of its instance. It looks at the machine alone, so that every room can use it. Start reading at Check.
package leak
