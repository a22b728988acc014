package manifest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Name identifies a workload, Config or Secret on a node: "namespace/name".
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// DefaultNamespace is used where metadata.namespace is absent.
const DefaultNamespace = "default"

// String returns "namespace/name".
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Short returns the name alone in the default namespace, else "namespace/name".
func (n Name) Short() string {
	if n.Namespace == DefaultNamespace {
		return n.Name
	}
	return n.String()
}

// Compare orders names by namespace, then by name.
func (n Name) Compare(o Name) int {
	return cmp.Or(strings.Compare(n.Namespace, o.Namespace), strings.Compare(n.Name, o.Name))
}

// MarshalText makes Name usable as a JSON map key.
func (n Name) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText parses "namespace/name".
func (n *Name) UnmarshalText(b []byte) error {
	got, err := ParseName(string(b), DefaultNamespace)
	if err != nil {
		return err
	}
	*n = got
	return nil
}

// ParseName parses "name" or "namespace/name"; namespace is used where s has none.
func ParseName(s, namespace string) (Name, error) {
	ns, name, found := strings.Cut(s, "/")
	if !found {
		ns, name = namespace, s
	}
	if ns == "" || name == "" || strings.Contains(name, "/") {
		return Name{}, fmt.Errorf("name %q: want NAME or NAMESPACE/NAME", s)
	}
	return Name{Namespace: ns, Name: name}, nil
}

// Revision is one state of a source: a commit, or the content hash of a plain directory.
type Revision struct {
	Commit  string    `json:"commit"` // full hash; "dir:sha256…" for a plain directory
	Author  string    `json:"author"` // name and address, as git log prints them
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"` // committer time
	// Allow lists what Reconciler-Allow trailers of the commit message permit, such as "remove".
	Allow []string `json:"allow,omitempty"`
}

// Short returns the commit abbreviated as git does.
func (r Revision) Short() string {
	hash, ok := strings.CutPrefix(r.Commit, "dir:")
	if len(hash) > 12 {
		hash = hash[:12]
	}
	if ok {
		return "dir:" + hash
	}
	return hash
}

// Position is a place in a file of the repository; Line and Column count from 1.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
}

// String returns file:line:col, as far as known. A file name with control characters is quoted.
func (p Position) String() string {
	file := printable(p.File)
	switch {
	case p.Line == 0:
		return file
	case p.Column == 0:
		return fmt.Sprintf("%s:%d", file, p.Line)
	default:
		return fmt.Sprintf("%s:%d:%d", file, p.Line, p.Column)
	}
}

// Kind says what sort of work a Workload is.
type Kind string

// The kinds of workload.
const (
	KindContainer Kind = "Container"
	KindJob       Kind = "Job"
	KindCronJob   Kind = "CronJob"
)

// Node is a server of the fleet, and what its manifest says of it.
type Node struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	Source        Position          `json:"source,omitzero"`
}

// Set is what one commit asks of one node: complete, validated, with overrides and the node's defaults applied.
// It is a value: nothing in it is written after Load returned it.
type Set struct {
	Revision Revision `json:"revision"`
	// Node is the node that the set is for: as asked, with the labels of its manifest where there is one.
	Node Node `json:"node"`
	// NodeKnown is false where the repository has Node manifests and none of them is this node's:
	// then nothing may be touched (reason UnknownNode).
	NodeKnown bool `json:"nodeKnown"`
	// Workloads are those selected on this node, sorted by name.
	Workloads []Workload `json:"workloads"`
	// Warnings are problems that stop nothing, such as an unknown field in a manifest that is not selected here.
	Warnings []Problem `json:"warnings,omitempty"`
}

// Workload is one Container, Job or CronJob as it is meant to be on one node. It is complete in itself: the
// content of every Config that it uses is inside, so that it can be kept, compared and lowered without its commit.
type Workload struct {
	Kind        Kind              `json:"kind"`
	Name        Name              `json:"name"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Source      Position          `json:"source"`
	// Spec is as the user wrote it, with overrides and the node's defaults merged and $(…)-free: references are
	// still references, and what the user left out is still absent. Defaulted fills in this release's defaults.
	Spec Spec `json:"spec"`
	// Configs holds the content of each Config that the spec uses.
	Configs map[string]ConfigData `json:"configs,omitempty"`
	// Secrets holds where each Secret that the spec uses comes from; never its content.
	Secrets map[string]SecretSource `json:"secrets,omitempty"`
	// NodeEnv holds the name and labels of the node that env refers to ({node: name}, {label: zone}).
	NodeEnv map[string]string `json:"nodeEnv,omitempty"`
	// Digest identifies all of the above but Source: equal digests mean nothing to do. "sha256:…" of canonical JSON.
	Digest string `json:"digest"`
}

// ConfigData is the content of one Config: one entry a file.
type ConfigData map[string][]byte

// SecretSource says where on the server a Secret's files are.
type SecretSource struct {
	FromDirectory string `json:"fromDirectory"`
}

// Encode returns w as JSON that Decode reads back.
func (w Workload) Encode() (json.RawMessage, error) { return json.Marshal(w) }

// DecodeWorkload reads what Encode wrote, by this or an earlier release: fields that it does not know are dropped.
func DecodeWorkload(b []byte) (Workload, error) {
	var w Workload
	if err := json.Unmarshal(b, &w); err != nil {
		return Workload{}, fmt.Errorf("decode stored workload: %w", err)
	}
	return w, nil
}

// Problem is one thing wrong with a manifest.
type Problem struct { //nolint:errname // users and other packages call it a problem; it is an error only for multierror
	Position Position `json:"position"`
	Field    string   `json:"field,omitempty"` // path such as spec.mounts[2].path
	Message  string   `json:"message"`         // what is wrong, what is allowed, "did you mean"
}

// Error returns "file:line:col: field: message".
func (p Problem) Error() string {
	if p.Field == "" {
		return p.Position.String() + ": " + p.Message
	}
	return p.Position.String() + ": " + p.Field + ": " + p.Message
}

// Class says what a changed field asks for.
type Class string

// The classes, mildest first; a change of several fields takes the strongest.
const (
	ClassNone     Class = "none"     // no effect on what runs
	ClassTakeOver Class = "takeover" // recorded, the process is not touched
	ClassLimits   Class = "limits"   // changed on the running container, same pid
	ClassReplace  Class = "replace"  // a new container takes its place
)

// Change is one field that differs between two workloads.
type Change struct {
	Field string `json:"field"` // manifest path, such as spec.image
	From  string `json:"from"`  // empty where absent; Config content is shown as a digest
	To    string `json:"to"`
	Class Class  `json:"-"`
}
