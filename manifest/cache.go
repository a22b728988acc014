package manifest

import (
	"io/fs"
	"maps"
	"strings"
)

// Keyed is what an fs.DirEntry of a tree may be too. ContentKey identifies the content of a regular file, as the hash of
// its Git blob does: equal keys, equal content. Empty: not known.
type Keyed interface{ ContentKey() string }

func keyOf(e fs.DirEntry) string {
	if k, ok := e.(Keyed); ok {
		return k.ContentKey()
	}
	return ""
}

// Cache keeps what the files of the last commit came to, so that Loader.Load reads and decodes only what changed since.
// The zero value is empty. It is for one Load at a time.
//
// Nothing in it goes stale: an entry is found by the file's name and the key of its content, and everything goes when the
// node or any Node manifest is another one. What one manifest says of another (names, dependencies, Configs, volumes) is
// looked at anew in each Load. Files are decoded each time that have something wrong with them, even if only a warning, or
// that name other files of the repository. It is as large as the last commit without any mistake.
type Cache struct {
	context string // the node, and every file with a Node manifest
	files   map[string]*kept
}

// kept is what one file came to on one node.
type kept struct {
	key               string
	size              int // in bytes
	documents, values int
	nodes             []nodeManifest
	configs           map[Name]*config
	secrets           map[Name]*secret
	variants          []*variant
}

func (c *Cache) find(name, key string) *kept {
	if c == nil || key == "" {
		return nil
	}
	if k := c.files[name]; k != nil && k.key == key {
		return k
	}
	return nil
}

// useCache takes the Nodes of files that did not change, and lets go of everything where the Nodes are not what they were.
func (ld *loading) useCache(all []file) {
	if ld.cache == nil {
		return
	}
	context := ld.context()
	if context == ld.cache.context {
		return
	}
	ld.cache.context, ld.cache.files = context, nil
	for i := range all {
		ld.readAgain(&all[i])
	}
}

// context is what each file comes to something else by.
func (ld *loading) context() string {
	var b strings.Builder
	for _, t := range ld.targets {
		for _, key := range sortedKeys(t.node.Labels) {
			b.WriteString(key + "=" + t.node.Labels[key] + "\n")
		}
		b.WriteString(t.node.Name + "\n")
	}
	for _, m := range ld.nodes {
		b.WriteString(m.node.Source.String() + " " + m.key + "\n")
	}
	return b.String()
}

// readAgain makes f one that is to be decoded.
func (ld *loading) readAgain(f *file) {
	if f.kept == nil {
		return
	}
	f.kept = nil
	data, err := readBounded(ld.tree, f.name)
	if err != nil {
		ld.skip(unreadable(f.name, err))
	}
	f.data = data
}

// replay takes f as it was decoded before. It reports false where that cannot be told from what is wrong now: then it is to
// be decoded.
func (ld *loading) replay(f *file) bool {
	if ld.values < f.kept.values {
		return false
	}
	for name := range f.kept.configs {
		if ld.configs[name] != nil {
			return false
		}
	}
	for name := range f.kept.secrets {
		if ld.secrets[name] != nil {
			return false
		}
	}
	ld.values -= f.kept.values
	maps.Copy(ld.configs, f.kept.configs)
	maps.Copy(ld.secrets, f.kept.secrets)
	for _, v := range f.kept.variants {
		v.finished = false
		for _, t := range ld.targets {
			t.selected = append(t.selected, v)
		}
	}
	return true
}

// keep has the cache hold what this commit came to, which has no mistake, and nothing else.
func (ld *loading) keep(all []file) {
	if ld.cache == nil {
		return
	}
	files := make(map[string]*kept, len(all))
	for _, f := range all {
		k := f.kept
		if k == nil {
			k = ld.fresh[f.name]
		}
		if k != nil && f.key != "" && !ld.problems.warned[f.name] {
			files[f.name] = k
		}
	}
	ld.cache.files = files
	for _, m := range ld.nodes {
		if k := ld.fresh[m.node.Source.File]; k != nil {
			k.nodes = append(k.nodes, m)
		}
	}
}

// input is the Config or Secret that r of v names: of a file that did not change it is the same one as before. Nil: r names
// none.
func (ld *loading) input(v *variant, r *reference) any {
	name := Name{Namespace: v.workload.Name.Namespace, Name: r.name}
	switch r.kind {
	case refConfig, refConfigEnv:
		return ld.configs[name]
	case refSecret:
		return ld.secrets[name]
	default:
		return nil
	}
}

// unchanged reports whether v is as it was completed before, with the same contents.
func (ld *loading) unchanged(v *variant) bool {
	if !v.whole || !v.sound {
		return false
	}
	for i := range v.refs {
		if ld.input(v, &v.refs[i]) != v.refs[i].input {
			return false
		}
	}
	return ld.spend(v.spent, v.workload.Source)
}
