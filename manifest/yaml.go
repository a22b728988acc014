package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// Limits on what a stranger's YAML can make us do.
const (
	maxFileSize  = 1 << 20 // bytes of one file
	maxTotalSize = 64 << 20
	maxManifests = 10_000
	maxDepth     = 64      // levels of nesting in one document
	maxNodes     = 200_000 // values in one document after aliases are expanded
)

// parseDocuments parses the documents of one file. What it returns besides an error is of no use.
func parseDocuments(data []byte) (docs []*yaml.Node, err error) {
	defer func() {
		// yaml.v3 panics on some malformed input; a stranger's file must not end the agent.
		if r := recover(); r != nil {
			docs, err = nil, errors.New("not valid YAML")
		}
	}()
	if err := checkText(data); err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		doc := new(yaml.Node)
		switch err := dec.Decode(doc); {
		case errors.Is(err, io.EOF):
			return docs, nil
		case err != nil:
			return nil, err
		case len(doc.Content) == 1 && !isNull(doc.Content[0]):
			docs = append(docs, doc.Content[0])
		}
	}
}

func checkText(data []byte) error {
	if i := bytes.IndexByte(data, 0); i >= 0 {
		return lineError{line: lineOf(data, i), message: "holds a NUL byte: not a text file (YAML must be UTF-8)"}
	}
	if !utf8.Valid(data) {
		for i := 0; i < len(data); {
			r, size := utf8.DecodeRune(data[i:])
			if r == utf8.RuneError && size == 1 {
				return lineError{line: lineOf(data, i), message: "is not valid UTF-8"}
			}
			i += size
		}
	}
	return nil
}

func lineOf(data []byte, offset int) int { return 1 + bytes.Count(data[:offset], []byte("\n")) }

// lineError is a reason why a file could not be parsed, with the line where it is known.
type lineError struct {
	line    int
	message string
}

func (e lineError) Error() string { return e.message }

// syntaxProblem makes a Problem of an error of parseDocuments.
func syntaxProblem(file string, err error) Problem {
	if at, ok := errors.AsType[lineError](err); ok {
		return Problem{Position: Position{File: file, Line: at.line}, Message: at.message}
	}
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if m := regexp.MustCompile(`^line (\d+): (.*)$`).FindStringSubmatch(text); m != nil {
		if n, convErr := strconv.Atoi(m[1]); convErr == nil {
			line, text = n, m[2]
		}
	}
	return Problem{Position: Position{File: file, Line: line}, Message: "not valid YAML: " + printable(clip(text)) + "; if this is not a manifest, " + ignoreHint(file)}
}

// ignoreHint says how to leave a file out.
func ignoreHint(file string) string {
	escaped := regexp.MustCompile(`[\\*?\[ ]`).ReplaceAllString(file, `\$0`)
	return fmt.Sprintf("leave it out with this line in .reconcilerignore: %s", printable("/"+escaped))
}

func isNull(n *yaml.Node) bool {
	return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null"
}

// deref follows an alias. Whoever walks a tree counts nodes and depth, so that neither a loop nor a bomb hurts.
func deref(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

// pair is one entry of a mapping.
type pair struct{ key, value *yaml.Node }

// pairs returns the entries of a mapping with merge keys (<<) applied: an entry written out wins over a merged one.
// Problems are told to report, which may be nil.
func pairs(m *yaml.Node, report func(at *yaml.Node, message string)) []pair {
	out := make([]pair, 0, len(m.Content)/2)
	merged := false
	for i := 0; i+1 < len(m.Content); i += 2 {
		key := m.Content[i]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merged = true
			continue
		}
		out = append(out, pair{key, deref(m.Content[i+1])})
	}
	if !merged {
		return out
	}
	seen := make(map[string]bool, len(out))
	for _, p := range out {
		seen[p.key.Value] = true
	}
	budget := maxNodes
	for i := 0; i+1 < len(m.Content); i += 2 {
		if key := m.Content[i]; key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			out = mergeInto(out, seen, m.Content[i+1], 0, &budget, report)
		}
	}
	return out
}

func mergeInto(out []pair, seen map[string]bool, from *yaml.Node, depth int, budget *int, report func(*yaml.Node, string)) []pair {
	at := from
	from = deref(from)
	if *budget--; *budget < 0 || depth > maxDepth {
		tell(report, at, "merges too much: aliases must not nest like this")
		return out
	}
	switch from.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(from.Content); i += 2 {
			*budget--
			key, value := from.Content[i], from.Content[i+1]
			if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
				out = mergeInto(out, seen, value, depth+1, budget, report)
			} else if !seen[key.Value] {
				seen[key.Value] = true
				out = append(out, pair{key, deref(value)})
			}
		}
	case yaml.SequenceNode:
		for _, item := range from.Content {
			out = mergeInto(out, seen, item, depth+1, budget, report)
		}
	default:
		tell(report, at, "<< wants a mapping, or a list of mappings")
	}
	return out
}

func tell(report func(*yaml.Node, string), at *yaml.Node, message string) {
	if report != nil {
		report(at, message)
	}
}

// child returns the value of a key, or nil.
func child(m *yaml.Node, key string) *yaml.Node {
	if m == nil || m.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key && m.Content[i].Kind == yaml.ScalarNode {
			return deref(m.Content[i+1])
		}
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Kind == yaml.ScalarNode && m.Content[i].ShortTag() == "!!merge" {
			for _, p := range pairs(m, nil) {
				if p.key.Value == key {
					return p.value
				}
			}
			return nil
		}
	}
	return nil
}

// whatIs names the sort of value that a person wrote.
func whatIs(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!null":
			return "nothing"
		case "!!str":
			return "the text " + quote(n.Value)
		default:
			return clip(n.Value)
		}
	default:
		return "an alias"
	}
}
