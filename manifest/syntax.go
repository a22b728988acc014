package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// checkText finds what yaml.v3 would refuse without saying where.
func checkText(data []byte) error {
	for i := 0; i < len(data); {
		if b := data[i]; b >= ' ' && b < 0x7f || b == '\n' { // nearly all of it
			i++
			continue
		}
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == 0:
			return textErrorAt(data, i, "holds a NUL byte: not a text file (YAML must be UTF-8)")
		case r == utf8.RuneError && size == 1:
			return textErrorAt(data, i, "is not valid UTF-8")
		case r < ' ' && r != '\t' && r != '\n' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85, r == 0xfffe, r == 0xffff, r == 0xfeff && i > 0:
			return textErrorAt(data, i, fmt.Sprintf("holds the character %U, which YAML does not allow", r))
		}
		i += size
	}
	return nil
}

// textError is a reason why a file could not be parsed, with its place.
type textError struct {
	line, column int
	message      string
}

func (e textError) Error() string { return e.message }

func textErrorAt(data []byte, offset int, message string) textError {
	start := bytes.LastIndexByte(data[:offset], '\n') + 1
	return textError{line: 1 + bytes.Count(data[:offset], []byte("\n")), column: 1 + utf8.RuneCount(data[start:offset]), message: message}
}

// What yaml.v3 says. Its parser, as opposed to its scanner, counts lines from 0.
var (
	yamlLine   = regexp.MustCompile(`^line (\d+): (.*)$`)
	yamlAnchor = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
	yamlParser = regexp.MustCompile(`^(did not find expected|found duplicate|found incompatible|found undefined) `)
)

// syntaxProblem makes a Problem of an error of parseDocuments.
func syntaxProblem(f file, err error) Problem {
	at := Position{File: f.name}
	if text, ok := errors.AsType[textError](err); ok {
		at.Line, at.Column = text.line, text.column
		return Problem{Position: at, Message: text.message}
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	at.Line = 1 // yaml.v3 leaves the first line out
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			at.Line, text = n, m[2]
		}
		if yamlParser.MatchString(text) {
			at.Line = min(at.Line+1, len(bytes.Split(bytes.TrimSpace(f.data), []byte("\n"))))
		}
	} else if m := yamlAnchor.FindStringSubmatch(text); m != nil {
		if i := bytes.Index(f.data, []byte("*"+m[1])); i >= 0 {
			where := textErrorAt(f.data, i, "")
			at.Line, at.Column = where.line, where.column
		}
	}
	return Problem{Position: at, Message: "not valid YAML: " + printable(clip(text)) + "; if this is not a manifest, " + ignoreHint(f.name)}
}

// ignoreHint says how to leave a file out.
func ignoreHint(file string) string {
	escaped := regexp.MustCompile(`[\\*?\[ ]`).ReplaceAllString(file, `\$0`)
	return fmt.Sprintf("leave it out with this line in .reconcilerignore: %s", printable("/"+escaped))
}
