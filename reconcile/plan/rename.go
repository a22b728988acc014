package plan

import (
	"encoding/json"
	"fmt"
	"slices"

	"reconciler/manifest"
)

// renames pairs workloads that went with equal ones that came under another name.
type renames struct {
	to   map[manifest.Name]manifest.Name // old name to new name
	from map[manifest.Name]manifest.Name // new name to old name
}

// findRenames pairs what is here and not desired any more with what is desired and not here. Only those are compared,
// so that an unchanged set costs nothing.
func (c *computation) findRenames() {
	for name := range c.observed {
		if c.wanted(name) == nil {
			c.gone = append(c.gone, name)
		}
	}
	if len(c.gone) == 0 {
		return
	}
	var come []manifest.Name
	for name := range c.byName {
		if c.observed[name] == nil {
			come = append(come, name)
		}
	}
	slices.SortFunc(c.gone, manifest.Name.Compare)
	slices.SortFunc(come, manifest.Name.Compare)
	c.renames = renames{to: map[manifest.Name]manifest.Name{}, from: map[manifest.Name]manifest.Name{}}
	byContent := map[string][]manifest.Name{}
	for _, name := range come {
		key := contentOf(*c.wanted(name))
		byContent[key] = append(byContent[key], name)
	}
	for _, name := range c.gone {
		old, ok := c.formerly(name)
		if !ok {
			continue
		}
		key := contentOf(old)
		if list := byContent[key]; len(list) > 0 && key != "" {
			c.renames.to[name], c.renames.from[list[0]] = list[0], name
			byContent[key] = list[1:]
		}
	}
}

// formerly returns what a name that is gone was: as accepted, else as its newest container says.
func (c *computation) formerly(name manifest.Name) (manifest.Workload, bool) {
	if w := c.accepted(name); w != nil {
		return *w, true
	}
	here := c.observed[name]
	old, err := manifest.DecodeWorkload(here[len(here)-1].Spec.Origin)
	return old, err == nil
}

// contentOf returns everything of w that a rename leaves alone; empty for what ends, which runs anew by another name.
func contentOf(w manifest.Workload) string {
	if w.Kind != manifest.KindContainer {
		return ""
	}
	b, err := json.Marshal(manifest.Workload{
		Kind: w.Kind, Name: manifest.Name{Namespace: w.Name.Namespace}, Spec: w.Spec, Configs: w.Configs, Secrets: w.Secrets, NodeEnv: w.NodeEnv,
	})
	if err != nil {
		return ""
	}
	return string(b)
}

// isRenamed reports whether w is a name whose container goes on under another name.
func (c *computation) isRenamed(w *work) bool {
	_, ok := c.renames.to[w.name]
	return ok
}

// renamed looks after a container that goes on under another name. The step of that name takes it away; as long as
// there is none, it is kept alive.
func (c *computation) renamed(w *work) {
	to := c.byName[c.renames.to[w.name]]
	f, flying := c.in.InFlight[w.name]
	if to.hold == nil {
		if flying && f.Digest != "" {
			c.cancel = append(c.cancel, w.name)
		}
		return
	}
	w.hold = &Hold{
		Name: w.name, Reason: to.hold.Reason, Until: to.hold.Until,
		Message: fmt.Sprintf("kept until it can run as %s, its new name", to.name.Short()),
	}
	if w.keep == nil {
		return
	}
	if old, err := manifest.DecodeWorkload(w.keep.Spec.Origin); err == nil {
		c.keepAlive(w, old)
	}
	if w.step != nil && flying && f.Digest == w.step.Workload.Digest {
		w.step = nil
	}
}
