// Package leak checks that a test which made real containers left nothing of them behind: no process, cgroup, mount or
// network namespace of its instance. It looks at the machine alone and imports nothing of ours, so that every room can
// use it. Start reading at Check.
package leak
