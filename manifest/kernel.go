package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// KernelSatisfies reports whether a kernel of this release (as uname says, such as 6.1.0-28-cloud-amd64) satisfies a
// condition such as ">= 5.10" or ">= 5.10, < 6.12": every part must hold. Only the numbers before the first other
// character count, and numbers that a condition leaves out are not compared: 6.1.55 is "= 6.1" and "<= 6.1". An error says what
// is wrong with the condition or the release.
func KernelSatisfies(condition, release string) (bool, error) {
	have, rest, err := kernelVersion(release)
	if err != nil || rest == release {
		return false, fmt.Errorf("kernel release %s: want a version such as 6.1.0-28-cloud-amd64", quote(release))
	}
	all := true
	for part := range strings.SplitSeq(condition, ",") {
		op, want, err := kernelCondition(part)
		if err != nil {
			return false, err
		}
		all = all && holds(op, have, want)
	}
	return all, nil
}

func checkKernel(condition string) error {
	for part := range strings.SplitSeq(condition, ",") {
		if _, _, err := kernelCondition(part); err != nil {
			return err
		}
	}
	return nil
}

func kernelCondition(part string) (op string, want []int, err error) {
	part = strings.TrimSpace(part)
	version := strings.TrimLeft(part, "<>=!")
	op = part[:len(part)-len(version)]
	want, rest, err := kernelVersion(strings.TrimSpace(version))
	if err != nil || rest != "" || !slices.Contains([]string{"", "=", "==", "!=", "<", "<=", ">", ">="}, op) {
		return "", nil, fmt.Errorf("want conditions such as \">= 5.10\" or \">= 5.10, < 6.12\", not %s", quote(part))
	}
	return op, want, nil
}

// kernelVersion returns the leading dotted numbers of s, and the rest.
func kernelVersion(s string) (version []int, rest string, err error) {
	rest = s
	for {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.Atoi(rest[:digits])
		if err != nil || len(version) == 4 {
			return nil, s, fmt.Errorf("want a version, not %s", quote(s))
		}
		version, rest = append(version, n), rest[digits:]
		if len(rest) < 2 || rest[0] != '.' || rest[1] < '0' || rest[1] > '9' {
			return version, rest, nil
		}
		rest = rest[1:]
	}
}

func holds(op string, have, want []int) bool {
	c := 0
	for i, w := range want {
		h := 0
		if i < len(have) {
			h = have[i]
		}
		if c = cmp.Compare(h, w); c != 0 {
			break
		}
	}
	switch op {
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	default:
		return c == 0
	}
}
