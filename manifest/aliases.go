package manifest

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// Limits on what one document may hold once its aliases are expanded, which a few lines of them can make anything.
const (
	maxDepth = 64 // levels of nesting
	maxNodes = 200_000
)

// nodeError is a reason why a document cannot be used.
type nodeError struct {
	at      *yaml.Node
	message string
}

func (e *nodeError) Error() string { return e.message }

// resolveAliases puts into doc what its aliases and merge keys (<<) stand for, so that nobody after it meets one. It
// returns how many values doc then holds. What an alias stands for is shared, not copied: nothing may change a node.
func resolveAliases(doc *yaml.Node) (size int, err error) {
	m := measurer{open: make(map[*yaml.Node]bool), known: make(map[*yaml.Node]extent)}
	all, err := m.measure(doc, 1)
	if err != nil || !m.found {
		return all.size, err
	}
	return all.size, resolve(doc)
}

// extent is what a node holds, itself counted.
type extent struct{ size, height int }

// measurer measures a document without expanding it.
type measurer struct {
	open  map[*yaml.Node]bool   // anchors that the way here leads through
	known map[*yaml.Node]extent // anchors
	found bool                  // there are aliases or merge keys
}

func (m *measurer) measure(n *yaml.Node, depth int) (extent, error) {
	if n.Kind == yaml.AliasNode {
		m.found = true
		if m.open[n.Alias] {
			return extent{}, &nodeError{n, "the alias " + quote(n.Value) + " stands inside of what it stands for"}
		}
		all := m.known[n.Alias] // an anchor stands before its aliases
		if depth+all.height > maxDepth {
			return extent{}, tooDeep(n)
		}
		return all, nil
	}
	if depth > maxDepth {
		return extent{}, tooDeep(n)
	}
	if n.Anchor != "" {
		m.open[n] = true
	}
	all := extent{size: 1}
	for i, inner := range n.Content {
		m.found = m.found || n.Kind == yaml.MappingNode && i%2 == 0 && isMerge(inner)
		e, err := m.measure(inner, depth+1)
		if err != nil {
			return extent{}, err
		}
		all.height = max(all.height, e.height)
		if all.size += e.size; all.size > maxNodes {
			return extent{}, &nodeError{n, fmt.Sprintf("holds more than %d values once its aliases are expanded", maxNodes)}
		}
	}
	all.height++
	if n.Anchor != "" {
		delete(m.open, n)
		m.known[n] = all
	}
	return all, nil
}

func tooDeep(n *yaml.Node) error {
	return &nodeError{n, fmt.Sprintf("is nested more than %d levels deep", maxDepth)}
}

func isMerge(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge"
}

// resolve replaces the aliases and merge keys below n, in the order of the document: an anchor is done before its
// aliases are.
func resolve(n *yaml.Node) error {
	merges := false
	for i, inner := range n.Content {
		if inner.Kind == yaml.AliasNode {
			n.Content[i] = inner.Alias
		} else if err := resolve(inner); err != nil {
			return err
		}
		merges = merges || n.Kind == yaml.MappingNode && i%2 == 0 && isMerge(inner)
	}
	if !merges {
		return nil
	}
	content := make([]*yaml.Node, 0, len(n.Content))
	seen := make(map[string]bool)
	for _, p := range pairs(n) {
		if !isMerge(p.key) {
			content, seen[p.key.Value] = append(content, p.key, p.value), true
		}
	}
	// What is written out wins over what is merged, and of that the first.
	for _, p := range pairs(n) {
		if !isMerge(p.key) {
			continue
		}
		from := []*yaml.Node{p.value}
		if p.value.Kind == yaml.SequenceNode {
			from = p.value.Content
		}
		for _, m := range from {
			if m.Kind != yaml.MappingNode {
				return &nodeError{p.key, "<< wants a mapping, or a list of mappings"}
			}
			for _, other := range pairs(m) {
				if !seen[other.key.Value] {
					content, seen[other.key.Value] = append(content, other.key, other.value), true
				}
			}
		}
	}
	n.Content = content
	return nil
}
