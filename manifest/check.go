package manifest

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// checker holds the rules that go beyond types. Its methods tell problems by the place of a field below root, which
// is looked up only when something is wrong.
type checker struct {
	d         *decoder
	root      *yaml.Node
	kind      Kind
	namespace string
	tree      fs.FS
	refs      []reference
	profile   func(name string) ([]byte, error) // of loading
	// entries indexes large mappings: a stranger's may hold any number, all with something wrong.
	entries map[*yaml.Node]map[string]*yaml.Node
}

// place is the way from root to a field: keys and indexes.
type place []any

func at(steps ...any) place { return steps }

func (p place) to(steps ...any) place { return append(slices.Clip(p), steps...) }

// find returns the node at p and, where it does not exist, its nearest parent.
func (c *checker) find(p place) *yaml.Node {
	n := c.root
	for _, step := range p {
		var next *yaml.Node
		switch s := step.(type) {
		case string:
			next = c.child(n, s)
		case int:
			if n.Kind == yaml.SequenceNode && s < len(n.Content) {
				next = n.Content[s]
			}
		}
		if next == nil {
			return n
		}
		n = next
	}
	return n
}

// child is as the function of that name.
func (c *checker) child(m *yaml.Node, key string) *yaml.Node {
	if m.Kind != yaml.MappingNode || len(m.Content) <= 128 {
		return child(m, key)
	}
	index, ok := c.entries[m]
	if !ok {
		index = make(map[string]*yaml.Node, len(m.Content)/2)
		for _, p := range pairs(m) {
			if _, before := index[p.key.Value]; !before && p.key.Kind == yaml.ScalarNode {
				index[p.key.Value] = p.value
			}
		}
		if c.entries == nil {
			c.entries = make(map[*yaml.Node]map[string]*yaml.Node)
		}
		c.entries[m] = index
	}
	return index[key]
}

func (c *checker) field(p place) string {
	out := make(fieldPath, 0, 64)
	for _, s := range c.d.path {
		out.add(s)
	}
	for _, step := range p {
		switch s := step.(type) {
		case string:
			out.add(segment{key: s})
		case int:
			out.add(segment{index: s})
		}
	}
	return string(out)
}

func (c *checker) problem(p place, format string, args ...any) {
	if c.d.full() {
		return
	}
	n := c.find(p)
	if c.d.bad[n] {
		return
	}
	c.d.report(Problem{Position: c.d.position(n), Field: c.field(p), Message: fmt.Sprintf(format, args...)})
}

func (c *checker) refer(p place, r reference) {
	r.position, r.field = c.d.position(c.find(p)), c.field(p)
	c.refs = append(c.refs, r)
}

// has reports whether the field was written at all, be it wrongly: then its absence is no problem of its own.
func (c *checker) has(p place) bool {
	parent := c.find(p[:len(p)-1])
	key, ok := p[len(p)-1].(string)
	n := c.child(parent, key)
	return ok && n != nil && !isNull(n)
}

func (c *checker) metadata(m metadata) Name {
	name := Name{Namespace: m.Namespace, Name: m.Name}
	if name.Namespace == "" {
		name.Namespace = DefaultNamespace
	}
	switch m.Name {
	case "":
		c.problem(at("metadata", "name"), "is missing")
	default:
		c.label(at("metadata", "name"), m.Name)
	}
	c.label(at("metadata", "namespace"), name.Namespace)
	c.labels(at("metadata", "labels"), m.Labels)
	c.annotations(at("metadata", "annotations"), m.Annotations)
	return name
}

func (c *checker) label(p place, s string) {
	switch {
	case validLabel(s):
	case strings.Contains(s, "#"):
		c.problem(p, "%s: # is reserved; want an RFC 1123 label (a-z, 0-9 and -, at most 63)", quote(s))
	default:
		c.problem(p, "want an RFC 1123 label (a-z, 0-9 and -, at most 63, a letter or digit at both ends), not %s", quote(s))
	}
}

func (c *checker) labels(p place, labels map[string]string) {
	for _, key := range sortedKeys(labels) {
		c.labelKey(p.to(key), key)
		if value := labels[key]; value != "" && !validToken(value) {
			c.problem(p.to(key), "want at most 63 letters, digits, -, _ and ., with a letter or digit at both ends, not %s", quote(value))
		}
	}
}

func (c *checker) annotations(p place, annotations map[string]string) {
	for _, key := range sortedKeys(annotations) {
		c.labelKey(p.to(key), key)
	}
}

func (c *checker) labelKey(p place, key string) {
	prefix, name, found := strings.Cut(key, "/")
	if !found {
		prefix, name = "", key
	}
	if !validToken(name) || found && !validSubdomain(prefix) {
		c.problem(p, "want a key of letters, digits, -, _ and ., as name or domain/name, not %s", quote(key))
	}
}

// validToken is Kubernetes' rule for the value of a label.
func validToken(s string) bool {
	return s != "" && len(s) <= 63 && isAlnumOr(s, "-_.") && isAlnumOr(s[:1], "") && isAlnumOr(s[len(s)-1:], "")
}

// isAlnumOr reports whether s is nothing but letters and digits of ASCII and what is in more.
func isAlnumOr(s, more string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte(more, c) < 0 {
			return false
		}
	}
	return true
}

// spec checks everything of a merged spec that needs no other manifest, and rewrites paths to the repository's root.
func (c *checker) spec(s *Spec) {
	c.platform(s.Platform)
	c.source(s)
	c.process(s)
	c.network(s)
	c.resources(s)
	c.mounts(s.Mounts, at("mounts"))
	c.devices(s)
	c.ulimits(s)
	c.sysctls(s)
	c.lifecycle(s)
	c.initContainers(s)
	c.restarts(s)
	c.dependencies(s.DependsOn)
	if s.SecurityContext != nil {
		c.security(s, s.SecurityContext, at("securityContext"))
	}
	c.job(s)
}

func (c *checker) platform(p *Platform) {
	if p == nil {
		return
	}
	for i, arch := range p.Architectures {
		base, variant, found := strings.Cut(arch, "/")
		if known := architectures(); !slices.Contains(known, base) || found && (variant == "" || strings.Contains(variant, "/")) {
			c.problem(at("platform", "architectures", i), "want one of %s, not %s%s", strings.Join(known, ", "), quote(arch), c.d.didYouMean(arch, known))
		}
	}
	if p.Kernel != "" {
		if err := checkKernel(p.Kernel); err != nil {
			c.problem(at("platform", "kernel"), "%s", err)
		}
	}
}

func architectures() []string {
	return []string{"amd64", "arm64", "arm", "386", "loong64", "mips64le", "ppc64le", "riscv64", "s390x"}
}

// source checks where the root file system comes from.
func (c *checker) source(s *Spec) {
	hasImage, hasCapture := s.Image != "" || c.has(at("image")), s.Capture != nil || c.has(at("capture"))
	switch {
	case hasImage && hasCapture:
		c.problem(at("capture"), "image stands too: want one of the two")
	case !hasImage && !hasCapture && s.Script == nil:
		c.problem(at("image"), "is missing: want image, or capture for copies of this server's files")
	}
	if hasImage {
		c.image(&s.Image, at("image"))
	}
	if s.Capture == nil {
		return
	}
	if len(s.Capture.Paths) == 0 {
		c.problem(at("capture", "paths"), "want at least one path")
	}
	seen := make(map[string]bool)
	for i := range s.Capture.Paths {
		p, where := &s.Capture.Paths[i], at("capture", "paths", i)
		to := p.To
		if to == "" {
			to = p.From
		} else {
			c.absolute(where.to("to"), to)
		}
		if c.find(where).Kind == yaml.MappingNode {
			where = where.to("from")
		}
		c.absolute(where, p.From)
		if path.Clean(p.From) == "/" {
			c.problem(where, "the whole server cannot be captured: name what the container needs")
		}
		if seen[path.Clean(to)] {
			c.problem(where, "%s stands twice", quote(to))
		}
		seen[path.Clean(to)] = true
	}
}

// absolute wants a clean absolute path.
func (c *checker) absolute(p place, s string) bool {
	switch {
	case s == "":
		c.problem(p, "is missing: want an absolute path")
	case !strings.HasPrefix(s, "/"):
		c.problem(p, "want an absolute path, not %s", quote(s))
	case strings.Contains(s, "..") && slices.Contains(strings.Split(s, "/"), ".."):
		c.problem(p, "must not contain .., as %s does", quote(s))
	default:
		return true
	}
	return false
}

func (c *checker) process(s *Spec) {
	if len(s.Command) > 0 && s.Command[0] == "" {
		c.problem(at("command", 0), "want a program, not an empty text")
	}
	if s.WorkingDir != "" {
		c.absolute(at("workingDir"), s.WorkingDir)
	}
	if s.Hostname != "" && (len(s.Hostname) > 64 || !validSubdomain(s.Hostname)) {
		c.problem(at("hostname"), "want a host name of at most 64 letters a-z, digits, - and ., not %s", quote(s.Hostname))
	}
	c.env(s.Env, at("env"))
	c.envFrom(s.EnvFrom, at("envFrom"))
}

func (c *checker) env(env map[string]EnvValue, where place) {
	for name, v := range env {
		if !validEnvName(name) {
			c.problem(where.to(name), "want a name of printable ASCII characters without =")
		}
		if !v.IsReference() {
			continue
		}
		c.envReference(v, where.to(name))
	}
}

func (c *checker) envReference(v EnvValue, p place) {
	count := 0
	for _, s := range []string{v.Node, v.Label, v.Secret, v.Config} {
		if s != "" {
			count++
		}
	}
	if count != 1 {
		c.problem(p, "want exactly one of node, label, secret and config")
		return
	}
	needsKey := v.Secret != "" || v.Config != ""
	switch {
	case needsKey && v.Key == "":
		c.problem(p.to("key"), "is missing: which key of it?")
	case !needsKey && v.Key != "":
		c.problem(p.to("key"), "goes with secret or config only")
	case v.Node != "" && v.Node != "name":
		c.problem(p.to("node"), "want name, not %s", quote(v.Node))
	case v.Node != "":
		c.refer(p, reference{kind: refNodeName})
	case v.Label != "":
		c.refer(p.to("label"), reference{kind: refLabel, name: v.Label})
	case v.Secret != "":
		c.fileName(p.to("key"), v.Key)
		c.refer(p.to("secret"), reference{kind: refSecret, name: v.Secret, key: v.Key})
	default:
		c.refer(p.to("config"), reference{kind: refConfigEnv, name: v.Config, key: v.Key})
	}
}

func (c *checker) envFrom(from []EnvFrom, where place) {
	for i, e := range from {
		switch p := where.to(i); {
		case (e.Config == "") == (e.Secret == ""):
			c.problem(p, "want exactly one of config and secret")
		case e.Config != "":
			c.refer(p.to("config"), reference{kind: refConfigEnv, name: e.Config})
		default:
			c.refer(p.to("secret"), reference{kind: refSecret, name: e.Secret})
		}
	}
}

func validEnvName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '=' })
}

// fileName wants the name of one file of a Config or Secret.
func (c *checker) fileName(p place, s string) {
	if !validFileName(s) {
		c.problem(p, "want a file name of letters, digits, -, _ and ., not %s", quote(s))
	}
}

func validFileName(s string) bool {
	return s != "" && len(s) <= 253 && s != "." && s != ".." && isAlnumOr(s, "-_.")
}
