package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// checkTarget checks what depends on everything that one node was given: names, dependencies, volumes, labels.
func (ld *loading) checkTarget(t *target) {
	var before *variant            // the first of its name
	for _, v := range t.selected { // sorted by name
		name := v.workload.Name
		if before != nil && name == before.workload.Name && name.Name != "" {
			ld.problems.addOn(Problem{Position: v.position, Field: "metadata.name", Message: fmt.Sprintf("the name %s stands twice: also at %s", name, before.workload.Source)}, t.node.Name)
			continue
		}
		before = v
	}
	var byName map[Name]*variant // where somebody depends on somebody
	published := make(claims[*variant])
	volumes, shared := make(map[Name]*volumeUse), false
	for _, v := range t.selected {
		for i := range v.refs {
			r := v.refs[i]
			switch r.kind {
			case refDependsOn, refNetwork:
				if byName == nil {
					byName = t.byName()
				}
				if r.kind == refNetwork {
					ld.checkNetwork(t, v, r, byName)
				} else {
					ld.checkDependency(t, v, r, byName)
				}
			case refHostPort:
				if other, taken := published.claim(r.hostPort, v); taken {
					ld.tellOn(t, r, "the port %s is published by %s too", r.hostPort, other.workload.Name)
				}
			case refLabel:
				if _, ok := t.node.Labels[r.name]; !ok && !ld.problems.full() {
					ld.tellOn(t, r, "the node has no label %s%s", quote(r.name), didYouMean(r.name, sortedKeys(t.node.Labels)))
				}
			case refVolume:
				use := volumes[v.volume(r)]
				if use == nil {
					volumes[v.volume(r)] = &volumeUse{first: v, at: &v.refs[i]}
					continue
				}
				if valueOf(use.at.size) != valueOf(r.size) {
					ld.tellOn(t, r, "the volume has another size at %s: write the same at every mount of it", use.at.position)
				}
				if use.first != v && use.second == nil {
					use.second, shared = v, true
				}
			case refConfig, refConfigEnv, refSecret, refNodeName:
			}
		}
	}
	if shared {
		ld.checkVolumes(t, volumes)
	}
	if byName != nil {
		ld.checkCycles(t, byName)
	}
}

// byName returns what is selected by name: of several with one name, which is told, the first.
func (t *target) byName() map[Name]*variant {
	out := make(map[Name]*variant, len(t.selected))
	for _, v := range slices.Backward(t.selected) {
		out[v.workload.Name] = v
	}
	return out
}

// volumeUse is who uses a volume: two of them, and where it is named first.
type volumeUse struct {
	first, second *variant
	at            *reference
}

func (ld *loading) tell(r reference, format string, args ...any) {
	ld.problems.add(Problem{Position: r.position, Field: r.field, Message: fmt.Sprintf(format, args...)})
}

func (ld *loading) tellOn(t *target, r reference, format string, args ...any) {
	ld.problems.addOn(Problem{Position: r.position, Field: r.field, Message: fmt.Sprintf(format, args...)}, t.node.Name)
}

func (ld *loading) checkDependency(t *target, v *variant, r reference, byName map[Name]*variant) {
	name, err := ParseName(r.name, v.workload.Name.Namespace)
	switch {
	case err != nil: // told before
	case name == v.workload.Name:
		ld.tell(r, "a workload cannot depend on itself")
	case byName[name] == nil:
		ld.notSelected(t, v, r, name, byName)
	}
}

func (ld *loading) notSelected(t *target, v *variant, r reference, name Name, byName map[Name]*variant) {
	if ld.partial || ld.problems.full() {
		return
	}
	var known []string
	for other := range byName {
		switch {
		case other.Namespace == v.workload.Name.Namespace:
			known = append(known, other.Name)
		case r.kind == refDependsOn:
			known = append(known, other.String())
		}
	}
	slices.Sort(known)
	ld.tellOn(t, r, "no workload %s is selected here%s", name, didYouMean(r.name, known))
}

// checkNetwork wants the container whose network v shares to be here, and to have one itself.
func (ld *loading) checkNetwork(t *target, v *variant, r reference, byName map[Name]*variant) {
	name := Name{Namespace: v.workload.Name.Namespace, Name: r.name}
	other := byName[name]
	if name == v.workload.Name {
		ld.tell(r, "a container cannot share the network with itself")
		return
	}
	if other == nil {
		ld.notSelected(t, v, r, name, byName)
		return
	}
	if whose, shares := other.workload.Spec.Network.SharedWith(); shares {
		ld.tellOn(t, r, "%s has no network of its own: write container:%s here too", name, whose)
	}
	if mine := v.workload.hostUsers(); mine != nil && (other.workload.hostUsers() == nil || *mine != *other.workload.hostUsers()) {
		ld.tellOn(t, r, "user ids are shared with the network: write hostUsers: %v at %s too, or leave it out here", *mine, name)
	}
}

func (w Workload) hostUsers() *bool {
	if w.Spec.SecurityContext == nil {
		return nil
	}
	return w.Spec.SecurityContext.HostUsers
}

// dependency returns the workload that r makes one of this namespace depend on; false where r is of another kind.
func (r reference) dependency(namespace string) (Name, bool) {
	switch r.kind {
	case refDependsOn:
		name, err := ParseName(r.name, namespace)
		return name, err == nil
	case refNetwork:
		return Name{Namespace: namespace, Name: r.name}, true
	default:
		return Name{}, false
	}
}

// volume is the volume that r names.
func (v *variant) volume(r reference) Name {
	return Name{Namespace: v.workload.Name.Namespace, Name: r.name}
}

// checkVolumes wants a volume of two workloads to say shared on every mount of it.
func (ld *loading) checkVolumes(t *target, volumes map[Name]*volumeUse) {
	for _, v := range t.selected {
		for _, r := range v.refs {
			if r.kind != refVolume || r.shared || volumes[v.volume(r)].second == nil {
				continue
			}
			other := volumes[v.volume(r)].first
			if other == v {
				other = volumes[v.volume(r)].second
			}
			ld.tellOn(t, r, "the volume belongs to %s too: write shared: true at every mount of it, or use another name", other.workload.Name)
		}
	}
}

// checkCycles tells each cycle of dependsOn and shared networks once, at the first of its names.
func (ld *loading) checkCycles(t *target, byName map[Name]*variant) {
	const visiting, done = 1, 2
	state := make(map[Name]int, len(byName))
	var way []Name
	var visit func(v *variant)
	visit = func(v *variant) {
		name := v.workload.Name
		state[name] = visiting
		way = append(way, name)
		for _, r := range v.refs {
			next, ok := r.dependency(name.Namespace)
			if !ok || next == name || byName[next] == nil {
				continue
			}
			switch state[next] {
			case visiting:
				ld.tellOn(t, r, "a cycle: %s", cycle(way[slices.Index(way, next):]))
			case done:
			default:
				visit(byName[next])
			}
		}
		way = way[:len(way)-1]
		state[name] = done
	}
	for _, v := range t.selected {
		if state[v.workload.Name] == 0 {
			visit(v)
		}
	}
}

func cycle(names []Name) string {
	words := make([]string, 0, len(names)+1)
	for _, n := range append(slices.Clone(names), names[0]) {
		words = append(words, n.Short())
	}
	return strings.Join(words, " -> ")
}

// complete returns the workload of v for a node, with everything that it refers to inside; where that is new, without digest.
func (ld *loading) complete(v *variant, node Node) Workload {
	if !v.finished {
		v.finished = true
		if !ld.unchanged(v) {
			v.whole = false
			ld.resolve(v)
		}
	}
	if v.whole {
		return v.workload
	}
	w := v.workload
	w.NodeEnv, w.Digest = nil, ""
	for _, r := range v.refs {
		key, value := NodeEnvName, node.Name
		switch r.kind {
		case refNodeName:
		case refLabel:
			key, value = NodeEnvLabel+r.name, node.Labels[r.name]
		default:
			continue
		}
		if w.NodeEnv == nil {
			w.NodeEnv = make(map[string]string)
		}
		w.NodeEnv[key] = value
	}
	return w
}

// completed keeps w, which is that of v for a node and has its digest.
func (ld *loading) completed(v *variant, w Workload) {
	if w.NodeEnv == nil || ld.cache != nil { // with a cache there is one node
		v.workload, v.whole = w, true
	}
}

// resolve puts the Configs and Secrets that v uses into its workload: of a Config only the keys that are used, so that
// a change of another key does not reach it.
func (ld *loading) resolve(v *variant) {
	values := ld.values
	w := &v.workload
	w.Configs, w.Secrets, v.sound = nil, nil, false
	sound := true
	for i := range v.refs {
		v.refs[i].input = ld.input(v, &v.refs[i])
		r := v.refs[i]
		name := Name{Namespace: w.Name.Namespace, Name: r.name}
		switch r.kind {
		case refSecret:
			s, ok := ld.secrets[name]
			if !ok {
				missing(ld, r, kindSecret, name, ld.secrets)
				sound = false
				continue
			}
			if w.Secrets == nil {
				w.Secrets = make(map[string]SecretSource)
			}
			w.Secrets[r.name] = s.source
		case refConfig, refConfigEnv:
			cfg, ok := ld.configs[name]
			if !ok {
				missing(ld, r, kindConfig, name, ld.configs)
				sound = false
				continue
			}
			keys := cfg.keys()
			if r.key != "" {
				if !cfg.has(r.key) {
					ld.tell(r, "the Config %s has no key %s%s", quote(name.String()), quote(r.key), didYouMean(r.key, keys))
					sound = false
					continue
				}
				keys = []string{r.key}
			}
			if !ld.spend(len(keys), w.Source) {
				return
			}
			sound = ld.take(w, cfg, r, keys) && sound
		case refVolume, refDependsOn, refNetwork, refHostPort, refLabel, refNodeName:
		}
	}
	v.spent, v.sound = values-ld.values, sound
}

// take copies keys of a Config into a workload. It reports false where something is wrong with one.
func (ld *loading) take(w *Workload, cfg *config, r reference, keys []string) bool {
	if w.Configs == nil {
		w.Configs = make(map[string]ConfigData)
	}
	if w.Configs[r.name] == nil {
		w.Configs[r.name] = make(ConfigData, len(keys))
	}
	sound := true
	for _, key := range keys {
		content := ld.contentOf(cfg, key)
		if r.kind == refConfigEnv && bytes.IndexByte(content, 0) >= 0 {
			ld.tell(r, "the key %s of the Config holds a NUL byte: no variable can", quote(key))
			sound = false
		}
		w.Configs[r.name][key] = content
	}
	return sound
}

// missing tells of a Config or Secret that is not among all, unless it may stand where nothing could be read.
func missing[V any](ld *loading, r reference, kind string, name Name, all map[Name]V) {
	if ld.partial || ld.problems.full() {
		return
	}
	var known []string
	for n := range all {
		if n.Namespace == name.Namespace {
			known = append(known, n.Name)
		}
	}
	slices.Sort(known)
	ld.tell(r, "the %s %s does not exist%s", kind, quote(name.String()), didYouMean(r.name, known))
}

// Keys of Workload.NodeEnv.
const (
	// NodeEnvName is the key of {node: name}.
	NodeEnvName = "name"
	// NodeEnvLabel, followed by the label, is the key of {label: LABEL}.
	NodeEnvLabel = "label:"
)
