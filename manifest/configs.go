package manifest

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

// maxContents bounds the bytes of all files that are read for one commit beside the manifests, of Configs and the like; each
// is bounded by maxFileSize.
const maxContents = 64 << 20

// config is a Config of the repository. Files are read when a workload first uses them.
type config struct {
	data     map[string]string
	files    map[string]string // paths in the repository
	content  ConfigData
	position Position
	at       map[string]Position // of each key
}

// secret is a Secret of the repository.
type secret struct {
	source   SecretSource
	position Position
}

// config gathers a Config. They are for every node; an unknown field is an error.
func (ld *loading) config(file string, doc *yaml.Node) {
	var m configDocument
	d := ld.decoder(file, ld.problems.add)
	d.value(doc, settable(&m))
	c := checker{d: d, root: doc, tree: ld.tree}
	name := c.metadata(m.Metadata)
	cfg := &config{data: m.Data, files: make(map[string]string), content: make(ConfigData), position: d.position(doc), at: make(map[string]Position)}
	for _, key := range sortedKeys(m.Data) {
		c.fileName(at("data", key), key)
	}
	for _, key := range sortedKeys(m.Files) {
		p := at("files", key)
		c.fileName(p, key)
		if _, ok := m.Data[key]; ok {
			c.problem(p, "stands in data too")
		}
		if full, ok := c.repositoryFile(p, m.Files[key], false); ok {
			cfg.files[key] = full
		}
		cfg.at[key] = d.position(c.find(p))
	}
	if before, ok := ld.configs[name]; ok {
		c.problem(at("metadata", "name"), "the Config %s stands twice: also at %s", name, before.position)
		return
	}
	ld.configs[name] = cfg
	ld.now.configs = with(ld.now.configs, name, cfg)
}

// secret gathers a Secret.
func (ld *loading) secret(file string, doc *yaml.Node) {
	var m secretDocument
	d := ld.decoder(file, ld.problems.add)
	d.value(doc, settable(&m))
	c := checker{d: d, root: doc}
	name := c.metadata(m.Metadata)
	if child(child(doc, "spec"), "fromDirectory") == nil {
		c.problem(at("spec", "fromDirectory"), "is missing: want an absolute directory of the server, with one file a key")
	} else {
		c.absolute(at("spec", "fromDirectory"), m.Spec.FromDirectory)
	}
	if before, ok := ld.secrets[name]; ok {
		c.problem(at("metadata", "name"), "the Secret %s stands twice: also at %s", name, before.position)
		return
	}
	ld.secrets[name] = &secret{source: SecretSource{FromDirectory: m.Spec.FromDirectory}, position: d.position(doc)}
	ld.now.secrets = with(ld.now.secrets, name, ld.secrets[name])
}

// with returns m with v under name; most files have no use for a map.
func with[V any](m map[Name]V, name Name, v V) map[Name]V {
	if m == nil {
		m = make(map[Name]V)
	}
	m[name] = v
	return m
}

func (c *config) has(key string) bool {
	if _, ok := c.data[key]; ok {
		return true
	}
	_, ok := c.at[key]
	return ok
}

func (c *config) keys() []string { return append(sortedKeys(c.data), sortedKeys(c.at)...) }

// contentOf returns the content of one key, reading its file at the first use.
func (ld *loading) contentOf(c *config, key string) []byte {
	if b, ok := c.content[key]; ok {
		return b
	}
	b := []byte(c.data[key])
	if name, isFile := c.files[key]; isFile {
		data, err := ld.readContent(name)
		if err != nil {
			ld.problems.add(Problem{Position: c.at[key], Field: "files." + key, Message: fmt.Sprintf("%s cannot be read: %s", quote(name), withoutPath(err))})
		}
		b = data
	}
	c.content[key] = b
	return b
}

// readContent reads a file that is not a manifest.
func (ld *loading) readContent(name string) ([]byte, error) {
	data, err := readBounded(ld.tree, name)
	if ld.contents += int64(len(data)); err == nil && ld.contents > maxContents {
		return nil, fmt.Errorf("the files of all Configs and profiles together are larger than %s", Bytes(maxContents))
	}
	return data, err
}
