package manifest

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// notSupported ends the message about a field that this release decodes and does not act on.
const notSupported = "not supported yet by this release"

// laterField is a field whose behaviour a later release brings. It is decoded and validated like any other, and
// refused where a selected manifest has it: a wish that is not acted on must never look like one that is.
type laterField struct {
	path   string   // in the spec; [] is every item of a list
	values []string // only these values. None: all
	except []string // all but these
}

// laterFields is the one list of them. A release that brings the behaviour takes the line out.
func laterFields() []laterField {
	return nil
}

// refuseUnsupported tells of every field of spec that a later release brings.
func (d *decoder) refuseUnsupported(spec *yaml.Node) {
	if spec.Kind != yaml.MappingNode {
		return
	}
	for _, later := range d.later {
		first, rest, _ := strings.Cut(later.path, ".")
		d.refuse(spec, first, rest, later)
	}
}

func (d *decoder) refuse(n *yaml.Node, first, rest string, later laterField) {
	name, isList := strings.CutSuffix(first, "[]")
	value := child(n, name)
	if value == nil || isNull(value) {
		return
	}
	d.push(name)
	defer d.pop()
	items := []*yaml.Node{value}
	if isList {
		items = value.Content
	}
	for i, item := range items {
		if isList {
			d.pushIndex(i)
		}
		if rest == "" {
			d.refuseValue(item, later)
		} else {
			next, after, _ := strings.Cut(rest, ".")
			d.refuse(item, next, after, later)
		}
		if isList {
			d.pop()
		}
	}
}

func (d *decoder) refuseValue(n *yaml.Node, later laterField) {
	is := func(value string) bool { return n.Kind == yaml.ScalarNode && n.Value == value }
	switch {
	case d.bad[n]:
	case n.Kind != yaml.ScalarNode && len(n.Content) == 0: // an empty list asks for nothing
	case len(later.values) > 0 && !slices.ContainsFunc(later.values, is):
	case slices.ContainsFunc(later.except, is):
	case len(later.values)+len(later.except) > 0 && n.Kind == yaml.ScalarNode:
		d.refusal(n, clip(printable(n.Value))+" is "+notSupported)
	default:
		d.refusal(n, notSupported)
	}
}

func (d *decoder) refusal(n *yaml.Node, message string) {
	d.report(Problem{Position: d.position(n), Field: d.field(), Message: message})
}
