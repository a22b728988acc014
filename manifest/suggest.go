package manifest

import (
	"slices"
	"strings"
	"unicode"
)

// suggest returns the one of known that word was probably meant to be, or "".
func suggest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	if other, ok := otherNames(fold(word)); ok && slices.Contains(known, other) {
		return other
	}
	best, least := "", 1+len(word)/3 // one slip in a short word, more in a long one
	for _, k := range known {
		if d := distance(fold(word), fold(k)); d <= least && (best == "" || d < least) {
			best, least = k, d
		}
	}
	return best
}

// didYouMean returns a sentence for the end of a message, or "".
func didYouMean(word string, known []string) string {
	if s := suggest(word, known); s != "" {
		return "; did you mean " + s + "?"
	}
	return ""
}

// fold takes away what tells depends_on from dependsOn.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// otherNames knows what other tools call our fields.
func otherNames(word string) (string, bool) {
	switch word {
	case "environment", "envvars":
		return "env", true
	case "envfile":
		return "envFrom", true
	case "volumes", "volumemounts":
		return "mounts", true
	case "restart":
		return "restartPolicy", true
	case "entrypoint", "cmd":
		return "command", true
	case "networkmode":
		return "network", true
	case "healthcheck":
		return "livenessProbe", true
	case "stopgraceperiod":
		return "terminationGracePeriodSeconds", true
	case "user":
		return "runAsUser", true
	case "readonly":
		return "readOnly", true
	case "configmap", "configmapref":
		return "config", true
	case "secretref", "secretname":
		return "secret", true
	case "mountpath", "target":
		return "path", true
	case "x8664":
		return "amd64", true
	case "aarch64":
		return "arm64", true
	default:
		return "", false
	}
}

// distance is the Levenshtein distance, with a swap of neighbours as one step.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
