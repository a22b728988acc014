package manifest

import (
	"slices"

	"gopkg.in/yaml.v3"
)

// Strings is a list of texts that may be written as one text.
type Strings []string

func (s *Strings) decodeNode(d *decoder, n *yaml.Node) {
	if n.Kind != yaml.SequenceNode {
		if text, ok := d.scalar(n, "a text or a list of texts"); ok {
			*s = Strings{text}
		}
		return
	}
	for i, item := range n.Content {
		d.pushIndex(i)
		if text, ok := d.scalar(item, "a text"); ok {
			*s = append(*s, text)
		}
		d.pop()
	}
}

func (v *EnvValue) decodeNode(d *decoder, n *yaml.Node) {
	const want = "a text, {node: name}, {label: L}, {secret: S, key: K} or {config: C, key: K}"
	if n.Kind != yaml.MappingNode {
		if text, ok := d.scalar(n, want); ok {
			v.Value = text
		}
		return
	}
	if len(n.Content) == 0 {
		d.problem(n, "want %s", want)
		return
	}
	type mapping EnvValue
	d.value(n, settable((*mapping)(v)))
}

func (p *CapturePath) decodeNode(d *decoder, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		if text, ok := d.scalar(n, "a path or {from: PATH, to: PATH}"); ok {
			p.From = text
		}
		return
	}
	type mapping CapturePath
	d.value(n, settable((*mapping)(p)))
}

func (v *VolumeSource) decodeNode(d *decoder, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		if text, ok := d.scalar(n, "a name or {name: NAME, size: SIZE}"); ok {
			v.Name = text
		}
		return
	}
	type mapping VolumeSource
	d.value(n, settable((*mapping)(v)))
}

func (p *Dependency) decodeNode(d *decoder, n *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		if text, ok := d.scalar(n, "a name or {name: NAME, condition: CONDITION}"); ok {
			p.Name = text
		}
		return
	}
	type mapping Dependency
	d.value(n, settable((*mapping)(p)))
}

func (c *OnChange) decodeNode(d *decoder, n *yaml.Node) {
	const want = "restart, none or {signal: NAME}"
	if n.Kind != yaml.MappingNode {
		text, ok := d.scalar(n, want)
		if ok && !slices.Contains([]string{OnChangeRestart, OnChangeNone}, text) {
			d.problem(n, "want %s, not %s%s", want, quote(text), d.didYouMean(text, []string{OnChangeRestart, OnChangeNone}))
		}
		c.Action = text
		return
	}
	type mapping OnChange
	d.value(n, settable((*mapping)(c)))
	c.Action = OnChangeSignal
	if c.Signal == "" {
		d.problem(n, "want %s", want)
	}
}

func (p *PortRef) decodeNode(d *decoder, n *yaml.Node) {
	if text, ok := d.scalar(n, "the number or the name of a port"); ok {
		*p = PortRef(text)
	}
}
