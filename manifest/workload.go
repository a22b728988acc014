package manifest

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// variant is one way that a manifest comes out: nodes with the same overrides and the same defaults share it.
type variant struct {
	workload Workload
	refs     []reference
	position Position // of metadata.name
	finished bool     // in this pass: configs and secrets are filled in
	whole    bool     // NodeEnv and the digest are too, for every node that it is for
	sound    bool     // nothing was wrong with what it refers to
	spent    int      // values of what it refers to
}

// reference is something that a workload names, to be looked up when every manifest is known.
type reference struct {
	kind     refKind
	name     string // of the Config, Secret, volume, workload or label
	key      string // of the Config; empty: all of it
	shared   bool   // of a volume
	size     *Bytes // of a volume; nil: none
	hostPort hostPort
	position Position
	field    string
	input    any // the *config or *secret that its workload was completed with
}

type refKind int

const (
	refConfig refKind = iota
	refConfigEnv
	refSecret
	refVolume
	refDependsOn
	refNetwork
	refHostPort
	refLabel
	refNodeName
)

// variantKey tells the variants of one document apart: which overrides apply, and the node's defaults.
type variantKey struct {
	overrides string
	defaults  *yaml.Node
}

// workload decodes a Container, Job or CronJob for every target that selects it.
func (ld *loading) workload(file string, doc *yaml.Node, size int, kind Kind) {
	var unknown []Problem
	d := ld.decoder(file, func(p Problem) { unknown = append(unknown, p) })
	var m workloadDocument
	d.value(doc, settable(&m))
	c := checker{d: d, root: doc}
	name := c.metadata(m.Metadata)
	spec := m.Spec.Node
	if spec == nil || spec.Kind != yaml.MappingNode {
		ld.partial = true
		if spec == nil {
			c.problem(at("spec"), "is missing")
		} else {
			c.problem(at("spec"), "want a mapping, not %s", whatIs(spec))
		}
		ld.unknownFields(unknown, true)
		return
	}
	var choice struct {
		NodeSelector map[string]Strings
		Overrides    []override
	}
	// Everything else of the spec is decoded below, once for each variant.
	sd := ld.decoder(file, func(p Problem) { unknown = append(unknown, p) }, segment{key: "spec"})
	sd.entry(spec, "nodeSelector", settable(&choice.NodeSelector))
	sd.entry(spec, "overrides", settable(&choice.Overrides))

	groups := make(map[variantKey][]*target)
	var order []variantKey
	used := make([]bool, len(choice.Overrides))
	for _, t := range ld.targets {
		if !t.known || !matches(choice.NodeSelector, t.node.Labels) {
			continue
		}
		key := variantKey{defaults: t.defaults}
		mask := make([]byte, len(choice.Overrides))
		for i, o := range choice.Overrides {
			mask[i] = '0'
			if matches(o.NodeSelector, t.node.Labels) {
				mask[i], used[i] = '1', true
			}
		}
		key.overrides = string(mask)
		if _, ok := groups[key]; !ok {
			order = append(order, key)
		}
		groups[key] = append(groups[key], t)
	}
	ld.unknownFields(unknown, len(order) > 0)
	if len(ld.nodes) > 0 && !slices.ContainsFunc(ld.nodes, func(m nodeManifest) bool { return matches(choice.NodeSelector, m.node.Labels) }) {
		ld.problems.warn(Problem{Position: d.position(child(spec, "nodeSelector")), Field: "spec.nodeSelector", Message: "no Node of the repository has these labels"})
	}
	if !ld.overrides(checker{d: sd, root: spec}, choice.Overrides, used) {
		ld.partial = true
		return
	}
	if len(order) == 0 {
		ld.lenient(file, spec)
		return
	}
	if len(choice.Overrides) > 0 {
		ld.lenient(file, spec) // what an override replaces must be right too
	}
	for i, key := range order {
		merged := spec
		more := size*strings.Count(key.overrides, "1") + groups[key][0].size
		if i > 0 {
			more += size
		}
		if !ld.spend(more, d.position(doc)) {
			return
		}
		if key.defaults != nil || strings.Contains(key.overrides, "1") {
			merged = ld.merged(spec, choice.Overrides, key, kind)
		}
		v := ld.variant(file, doc, merged, Workload{
			Kind: kind, Name: name, Labels: m.Metadata.Labels, Annotations: m.Metadata.Annotations, Source: d.position(doc),
		})
		ld.now.variants = append(ld.now.variants, v)
		for _, t := range groups[key] {
			t.selected = append(t.selected, v)
		}
	}
}

func (ld *loading) unknownFields(found []Problem, selected bool) {
	for _, p := range found {
		if selected {
			ld.problems.add(p)
		} else {
			ld.problems.warn(p)
		}
	}
}

// overrides decodes each override by itself, so that one that applies nowhere is still checked. It reports false
// where one cannot be merged.
func (ld *loading) overrides(c checker, all []override, used []bool) bool {
	fit := true
	for i, o := range all {
		unknown := ld.problems.warn
		if used[i] {
			unknown = ld.problems.add
		}
		if o.Spec.Node == nil {
			c.problem(at("overrides", i, "spec"), "is missing: what is different on these nodes?")
			fit = false
			continue
		}
		od := ld.decoder(c.d.file, unknown, segment{key: "spec"}, segment{key: "overrides"}, segment{index: i}, segment{key: "spec"})
		od.removes = true
		var spec Spec
		od.value(o.Spec.Node, settable(&spec))
		fit = fit && o.Spec.Kind == yaml.MappingNode
	}
	return fit
}

// lenient checks a spec that is selected nowhere: unknown fields, which may be newer than this release, are warnings.
func (ld *loading) lenient(file string, spec *yaml.Node) {
	s := workloadSpecFields{Spec: new(Spec)}
	d := ld.decoder(file, ld.problems.warn, segment{key: "spec"})
	d.value(spec, settable(&s))
}

// workloadSpecFields is workloadSpec with what was decoded before left alone.
type workloadSpecFields struct {
	NodeSelector rawNode `json:"nodeSelector,omitzero"`
	Overrides    rawNode `json:"overrides,omitzero"`
	*Spec
}

// variant decodes and checks one way that a manifest comes out.
func (ld *loading) variant(file string, doc, spec *yaml.Node, w Workload) *variant {
	d := ld.decoder(file, ld.problems.add, segment{key: "spec"})
	v := &variant{workload: w, position: w.Source}
	fields := workloadSpecFields{Spec: &v.workload.Spec}
	d.value(spec, settable(&fields))
	if n := child(child(doc, "metadata"), "name"); n != nil {
		v.position = d.position(n)
	}
	c := checker{d: d, root: spec, kind: w.Kind, namespace: w.Name.Namespace, tree: ld.tree, profile: ld.profile, refs: make([]reference, 0, 8)}
	c.spec(&v.workload.Spec)
	v.refs = c.refs
	return v
}

// merged returns the defaults of the node, the spec and the overrides that apply, one over the other.
func (ld *loading) merged(spec *yaml.Node, overrides []override, key variantKey, kind Kind) *yaml.Node {
	out := spec
	if key.defaults != nil {
		out = merge(ld.defaultsFor(key.defaults, kind), spec, nil, false)
	}
	for i, o := range overrides {
		if key.overrides[i] == '1' {
			out = merge(out, o.Spec.Node, nil, true)
		}
	}
	return out
}

// defaultsFor leaves out what workloads of this kind do not have.
func (ld *loading) defaultsFor(defaults *yaml.Node, kind Kind) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: defaults.Line, Column: defaults.Column}
	for _, p := range pairs(defaults) {
		if kinds := fieldKinds(ld.types, p.key.Value); kinds == nil || slices.Contains(kinds, kind) {
			out.Content = append(out.Content, p.key, p.value)
		}
	}
	return out
}

// merge returns base with over on top: mappings merge, null removes where an override says so, everything else
// replaces. Neither is changed, and every value keeps its position. path is that of the two in the spec.
func merge(base, over *yaml.Node, path []string, nullRemoves bool) *yaml.Node {
	out := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: base.Line, Column: base.Column}
	if len(path) == 0 {
		out.Line, out.Column = over.Line, over.Column
	}
	overEntries := pairs(over)
	index := make(map[string]int, len(overEntries))
	for i, p := range overEntries {
		index[p.key.Value] = i
	}
	for _, b := range pairs(base) {
		i, ok := index[b.key.Value]
		switch {
		case ok:
			o := overEntries[i]
			delete(index, b.key.Value)
			if nullRemoves && isNull(o.value) {
				continue
			}
			inner := append(slices.Clip(path), b.key.Value)
			if b.value.Kind == yaml.MappingNode && o.value.Kind == yaml.MappingNode && !isWhole(inner) {
				out.Content = append(out.Content, o.key, merge(b.value, o.value, inner, nullRemoves))
			} else {
				out.Content = append(out.Content, o.key, o.value)
			}
		case len(path) == 0 && (hasValue(index, overEntries, "image") && b.key.Value == "capture" || hasValue(index, overEntries, "capture") && b.key.Value == "image"):
			// One takes the place of the other.
		default:
			out.Content = append(out.Content, b.key, b.value)
		}
	}
	for _, o := range overEntries {
		if _, left := index[o.key.Value]; left && (!nullRemoves || !isNull(o.value)) {
			delete(index, o.key.Value)
			out.Content = append(out.Content, o.key, o.value)
		}
	}
	return out
}

func hasValue(index map[string]int, entries []pair, key string) bool {
	i, ok := index[key]
	return ok && !isNull(entries[i].value)
}

// isWhole reports whether the mapping at path is one value, which is replaced and not merged: a variable, an action.
func isWhole(path []string) bool {
	switch {
	case len(path) == 2 && path[0] == "env":
		return true
	case len(path) >= 2 && (path[0] == "lifecycle"):
		return true
	default:
		return false
	}
}
