package plan

import (
	"fmt"
	"strings"

	"reconciler/manifest"
)

// maxShown is how many characters of a value a reason shows; the changes beside it have all of them.
const maxShown = 64

// summary says in one line what changed: the first of the changes that matter most, and how many more there are.
func summary(changes []manifest.Change) string {
	if len(changes) == 0 {
		return "recorded anew, nothing of it changed"
	}
	class := manifest.Strongest(changes)
	first := changes[0]
	for _, c := range changes {
		if c.Class == class {
			first = c
			break
		}
	}
	text := describe(first)
	if n := len(changes) - 1; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}

func describe(c manifest.Change) string {
	field := strings.TrimPrefix(strings.TrimPrefix(c.Field, "spec."), "metadata.")
	switch {
	case c.From == "" && c.To == "":
		return field + " changed"
	case c.From == "":
		return fmt.Sprintf("%s added: %s", field, shorten(c.To))
	case c.To == "":
		return fmt.Sprintf("%s removed: %s", field, shorten(c.From))
	default:
		return fmt.Sprintf("%s changed: %s -> %s", field, shorten(c.From), shorten(c.To))
	}
}

func shorten(s string) string {
	if r := []rune(s); len(r) > maxShown {
		return string(r[:maxShown]) + "…"
	}
	return s
}

// abbreviate shortens a digest as image tools do.
func abbreviate(digest string) string {
	const shown = len("sha256:") + 12
	if len(digest) > shown {
		return digest[:shown]
	}
	if digest == "" {
		return "unknown"
	}
	return digest
}
