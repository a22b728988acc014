package manifest

import (
	"fmt"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// APIVersion is what every manifest of this release says.
const APIVersion = "reconciler/v1"

// The kinds of manifest that are no workloads.
const (
	kindConfig = "Config"
	kindSecret = "Secret"
	kindNode   = "Node"
)

func kinds() []string {
	return []string{string(KindContainer), string(KindJob), string(KindCronJob), kindConfig, kindSecret, kindNode}
}

// metadata is what every manifest but a Node is called.
type metadata struct {
	// Name is unique among the workloads selected on one node; an RFC 1123 label.
	Name string `json:"name"`
	// Namespace keeps names apart; default where absent.
	Namespace string `json:"namespace,omitempty"`
	// Labels are for people and for selecting.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are for people and tools.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// workloadDocument is a Container, Job or CronJob as written.
type workloadDocument struct {
	// APIVersion is reconciler/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Container, Job or CronJob.
	Kind string `json:"kind"`
	// Metadata names the workload.
	Metadata metadata `json:"metadata"`
	// Spec says what runs.
	Spec rawNode `json:"spec"`
}

// workloadSpec is what may stand below spec of a workload.
type workloadSpec struct {
	// NodeSelector says which nodes the manifest is for, by their labels; a list means any of; absent: every node.
	NodeSelector map[string]Strings `json:"nodeSelector,omitempty"`
	// Overrides are small differences between nodes, applied in order: mappings merge, lists replace, null removes.
	Overrides []override `json:"overrides,omitempty"`
	Spec
}

// override is a difference for some nodes.
type override struct {
	// NodeSelector says which nodes the override is for; absent: every node.
	NodeSelector map[string]Strings `json:"nodeSelector,omitempty"`
	// Spec is merged over the spec.
	Spec rawNode `json:"spec"`
}

// configDocument is a Config as written.
type configDocument struct {
	// APIVersion is reconciler/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Config.
	Kind string `json:"kind"`
	// Metadata names the Config.
	Metadata metadata `json:"metadata"`
	// Data holds files by name: their text.
	Data map[string]string `json:"data,omitempty"`
	// Files holds files by name: their path in the repository, relative to the manifest.
	Files map[string]string `json:"files,omitempty"`
}

// secretDocument is a Secret as written.
type secretDocument struct {
	// APIVersion is reconciler/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Secret.
	Kind string `json:"kind"`
	// Metadata names the Secret.
	Metadata metadata `json:"metadata"`
	// Spec says where the Secret comes from.
	Spec secretSpec `json:"spec"`
}

// secretSpec says where a Secret comes from.
type secretSpec struct {
	// FromDirectory is a directory of the server; one file a key.
	FromDirectory string `json:"fromDirectory"`
}

// nodeDocument is a Node as written.
type nodeDocument struct {
	// APIVersion is reconciler/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Node.
	Kind string `json:"kind"`
	// Metadata names the node.
	Metadata nodeMetadata `json:"metadata"`
	// Spec says how the node is to be used.
	Spec nodeSpec `json:"spec,omitzero"`
}

// nodeMetadata is what a Node is called.
type nodeMetadata struct {
	// Name is what the server calls itself: its host name, or --node.
	Name string `json:"name"`
	// Labels are what nodeSelector asks for.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are for people and tools.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// nodeSpec says how a node is to be used.
type nodeSpec struct {
	// Unschedulable starts nothing new and stops nothing.
	Unschedulable bool `json:"unschedulable,omitempty"`
	// Defaults is merged under the spec of every workload here.
	Defaults rawNode `json:"defaults,omitzero"`
}

// rawNode keeps a value that is decoded later.
type rawNode struct{ *yaml.Node }

func (r *rawNode) decodeNode(_ *decoder, n *yaml.Node) { r.Node = n }

// settable returns what p points to, for decoding.
func settable(p any) reflect.Value { return reflect.ValueOf(p).Elem() }

// decoder returns a decoder for a document; unknown fields go to unknown.
func (ld *loading) decoder(file string, unknown func(Problem), path ...segment) *decoder {
	return &decoder{file: file, origins: ld.origins, types: ld.types, report: ld.problems.add, unknown: unknown, full: ld.problems.full, hints: &ld.hints, path: append(make([]segment, 0, 8), path...)}
}

// kindOf checks apiVersion and kind; it returns "" and tells why where the document is not ours.
func (ld *loading) kindOf(file string, doc *yaml.Node) string {
	fail := func(at *yaml.Node, field, format string, args ...any) string {
		ld.problems.add(Problem{Position: positionOf(file, at), Field: field, Message: fmt.Sprintf(format, args...)})
		return ""
	}
	if doc.Kind != yaml.MappingNode {
		return fail(doc, "", "not a manifest of reconciler but %s; %s", whatIs(doc), ignoreHint(file))
	}
	version, kind := child(doc, "apiVersion"), child(doc, "kind")
	switch {
	case version == nil || version.Kind != yaml.ScalarNode:
		if kind != nil && suggest(kind.Value, kinds()) == kind.Value {
			return fail(doc, "apiVersion", "is missing: want apiVersion: %s", APIVersion)
		}
		return fail(doc, "", "not a manifest of reconciler (it has no apiVersion: %s); %s", APIVersion, ignoreHint(file))
	case version.Value != APIVersion && (strings.HasPrefix(version.Value, "reconciler/") || suggest(version.Value, []string{APIVersion}) != ""):
		return fail(version, "apiVersion", "want %s, not %s", APIVersion, quote(version.Value))
	case version.Value != APIVersion:
		return fail(version, "apiVersion", "not a manifest of reconciler: want %s, not %s; %s",
			APIVersion, quote(version.Value), ignoreHint(file))
	case kind == nil || kind.Kind != yaml.ScalarNode:
		return fail(doc, "kind", "is missing: want one of %s", strings.Join(kinds(), ", "))
	}
	for _, k := range kinds() {
		if k == kind.Value {
			return k
		}
	}
	return fail(kind, "kind", "want one of %s, not %s%s", strings.Join(kinds(), ", "), quote(kind.Value), didYouMean(kind.Value, kinds()))
}
