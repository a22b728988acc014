package manifest

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// nodesOf gathers the Node manifests of a file: selection and defaults need every Node before the first workload. Other
// problems of the file are told when it is parsed again.
func (ld *loading) nodesOf(f *file) {
	if f.kept != nil {
		if !slices.ContainsFunc(f.kept.nodes, ld.knowsNode) {
			ld.nodes = append(ld.nodes, f.kept.nodes...)
			for _, m := range f.kept.nodes {
				ld.remember(m.defaults, f.name)
			}
			return
		}
		ld.readAgain(f)
	}
	if !bytes.Contains(f.data, []byte(kindNode)) { // so that few files are parsed twice
		return
	}
	docs, err := parseDocuments(f.data)
	if err != nil {
		return
	}
	for _, doc := range docs {
		size, err := resolveAliases(doc)
		if err != nil {
			continue
		}
		version, kind := child(doc, "apiVersion"), child(doc, "kind")
		if version != nil && version.Value == APIVersion && kind != nil && kind.Value == kindNode {
			ld.node(*f, doc, size)
		}
	}
}

// knowsNode reports whether there is a Node with the name of m already.
func (ld *loading) knowsNode(m nodeManifest) bool {
	return slices.ContainsFunc(ld.nodes, func(o nodeManifest) bool { return o.node.Name == m.node.Name })
}

func (ld *loading) node(f file, doc *yaml.Node, size int) {
	var m nodeDocument
	// A newer field must not stop an older agent, and which nodes are asked for is not known yet: see checkNodes.
	var unknown []Problem
	d := ld.decoder(f.name, func(p Problem) { unknown = append(unknown, p) })
	d.value(doc, settable(&m))
	source := d.position(doc)
	name := m.Metadata.Name
	c := checker{d: d, root: doc}
	switch {
	case name == "":
		c.problem(at("metadata", "name"), "is missing")
	case !validSubdomain(name):
		c.problem(at("metadata", "name"), "want a host name (letters a-z, digits, - and .), not %s", quote(name))
	}
	c.labels(at("metadata", "labels"), m.Metadata.Labels)
	c.annotations(at("metadata", "annotations"), m.Metadata.Annotations)
	if n := m.Spec.Defaults.Node; n != nil && n.Kind != yaml.MappingNode {
		c.problem(at("spec", "defaults"), "want a mapping, not %s", whatIs(n))
		m.Spec.Defaults.Node = nil
	}
	for _, other := range ld.nodes {
		if other.node.Name == name && name != "" {
			c.problem(at("metadata", "name"), "the Node %s stands twice: also at %s", quote(name), other.node.Source)
		}
	}
	ld.nodes = append(ld.nodes, nodeManifest{
		node:     Node{Name: name, Labels: m.Metadata.Labels, Unschedulable: m.Spec.Unschedulable, Source: source},
		key:      f.key,
		defaults: m.Spec.Defaults.Node,
		size:     size,
		unknown:  unknown,
	})
	ld.remember(m.Spec.Defaults.Node, f.name)
}

// remember notes the file of the nodes of a Node's defaults: merged into a workload they still show where they stand.
func (ld *loading) remember(n *yaml.Node, file string) {
	if n == nil || ld.origins[n] != "" {
		return
	}
	ld.origins[n] = file
	for _, c := range n.Content {
		ld.remember(c, file)
	}
}

// checkNodes decodes the defaults of every Node; an unknown field is an error only where the node is a target.
func (ld *loading) checkNodes() {
	for _, m := range ld.nodes {
		mine := slices.ContainsFunc(ld.targets, func(t *target) bool { return t.node.Name == m.node.Name })
		unknown := ld.problems.warn
		if mine {
			unknown = ld.problems.add
		}
		for _, p := range m.unknown {
			unknown(p)
		}
		if m.defaults == nil {
			continue
		}
		var spec Spec
		d := ld.decoder(m.node.Source.File, unknown, segment{key: "spec"}, segment{key: "defaults"})
		d.value(m.defaults, settable(&spec))
	}
}

// matches reports whether a node with these labels is selected; a nil selector selects every node.
func matches(selector map[string]Strings, labels map[string]string) bool {
	for key, allowed := range selector {
		if value, ok := labels[key]; !ok || !slices.Contains(allowed, value) {
			return false
		}
	}
	return true
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// validLabel reports whether s is an RFC 1123 label.
func validLabel(s string) bool {
	return s != "" && len(s) <= 63 && isAlnumOr(s, "-") && strings.ToLower(s) == s && s[0] != '-' && s[len(s)-1] != '-'
}

// validSubdomain reports whether s is RFC 1123 labels with dots between.
func validSubdomain(s string) bool {
	return len(s) <= 253 && !slices.ContainsFunc(strings.Split(s, "."), func(part string) bool { return !validLabel(part) })
}
