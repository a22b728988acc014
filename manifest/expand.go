package manifest

import "strings"

// Expand replaces each $(VAR) in s by what lookup says, as Kubernetes does: $$ is a literal $, so that $$(VAR) gives
// $(VAR), and a name that lookup does not know stays as it is written. Values are not expanded again.
func Expand(s string, lookup func(name string) (value string, ok bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			if value, ok := lookup(s[i+2 : i+end]); ok {
				b.WriteString(value)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}
