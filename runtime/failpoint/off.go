//go:build !failpoints

package failpoint

// Here marks a place where a process may die. The name says, in words that are used once, what is done by then.
func Here(string) {}
