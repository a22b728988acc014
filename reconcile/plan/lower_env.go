package plan

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"reconciler/manifest"
	"reconciler/runtime"
)

// environment is a workload's variables as they are resolved.
type environment struct {
	spec     map[string]manifest.EnvValue
	known    map[string]string // values that are final: references, variables of whole Configs, expanded values
	secret   map[string]bool   // variables whose value only the runtime will know
	pending  []string          // variables being expanded, outermost first
	expanded int               // bytes that lookup returned
	vars     []runtime.EnvVar
	sources  []runtime.EnvSource
	err      error
}

// resolveEnv resolves env and envFrom of s, the defaulted spec of w. A variable may refer to any other with $(NAME);
// names that are not known stay as they are written, as in Kubernetes.
func resolveEnv(w manifest.Workload, s manifest.Spec) (*environment, error) {
	e := &environment{
		spec:   s.Env,
		known:  map[string]string{},
		secret: map[string]bool{},
	}
	if err := e.addSources(w, s.EnvFrom); err != nil {
		return nil, err
	}
	secrets := map[string]*runtime.SecretKey{}
	for name, v := range s.Env {
		delete(e.known, name) // what a whole Config says of it is overruled
		switch {
		case v.Secret != "":
			from, ok := w.Secrets[v.Secret]
			if !ok {
				return nil, fmt.Errorf("spec.env.%s: no Secret %s", name, v.Secret)
			}
			secrets[name] = &runtime.SecretKey{Directory: from.FromDirectory, Key: v.Key}
			e.secret[name] = true
		case v.IsReference():
			got, err := reference(w, v)
			if err != nil {
				return nil, fmt.Errorf("spec.env.%s: %w", name, err)
			}
			e.known[name] = got
		}
	}
	names := map[string]bool{}
	for name := range e.known {
		names[name] = true
	}
	for name := range s.Env {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if key := secrets[name]; key != nil {
			e.vars = append(e.vars, runtime.EnvVar{Name: name, Secret: key})
			continue
		}
		got, ok := e.known[name]
		if !ok {
			got, _ = e.expand(name)
		}
		e.vars = append(e.vars, runtime.EnvVar{Name: name, Value: got})
	}
	return e, e.err
}

// addSources adds whole Configs and Secrets. What comes after the last Secret is plain variables; what comes before
// one must stay a source of its own, since the Secret's files, which nobody knows here, win over it.
func (e *environment) addSources(w manifest.Workload, from []manifest.EnvFrom) error {
	last := -1
	for i, f := range from {
		if f.Secret != "" {
			last = i
		}
	}
	for i, f := range from {
		if f.Secret != "" {
			source, ok := w.Secrets[f.Secret]
			if !ok {
				return fmt.Errorf("spec.envFrom[%d]: no Secret %s", i, f.Secret)
			}
			e.sources = append(e.sources, runtime.EnvSource{SecretDirectory: source.FromDirectory})
			continue
		}
		data, ok := w.Configs[f.Config]
		if !ok {
			return fmt.Errorf("spec.envFrom[%d]: no Config %s", i, f.Config)
		}
		values := map[string]string{}
		for key, content := range data {
			if isVariable(key) {
				values[key] = string(content)
			}
		}
		if i < last {
			e.sources = append(e.sources, runtime.EnvSource{Values: values})
			continue
		}
		maps.Copy(e.known, values)
	}
	return nil
}

// isVariable reports whether a key can be the name of a variable: those of Kubernetes.
func isVariable(key string) bool {
	ok, err := regexp.MatchString(`^[A-Za-z_.-][A-Za-z0-9_.-]*$`, key)
	return ok && err == nil
}

// reference returns what a reference to the node or to a Config stands for.
func reference(w manifest.Workload, v manifest.EnvValue) (string, error) {
	switch {
	case v.Node != "":
		return nodeEnv(w, manifest.NodeEnvName, "name")
	case v.Label != "":
		return nodeEnv(w, manifest.NodeEnvLabel+v.Label, "label "+v.Label)
	default:
		files, err := configFiles(w, v.Config, v.Key)
		return string(files[v.Key]), err
	}
}

// maxExpanded bounds what $(NAME) may grow to in one workload, in bytes: the kernel gives no program more than 2 MiB.
const maxExpanded = 2 << 20

// lookup returns the final value of a variable, expanding it first where that was not done.
func (e *environment) lookup(name string) (string, bool) {
	got, ok := e.known[name]
	if !ok {
		got, ok = e.expand(name)
	}
	if e.expanded += len(got); e.expanded > maxExpanded {
		e.fail(fmt.Errorf("$(%s): variables expand to more than %d MiB, which no program can be given", name, maxExpanded>>20))
		return "", false
	}
	return got, ok
}

// expand expands a variable that is not known yet.
func (e *environment) expand(name string) (string, bool) {
	if e.secret[name] {
		e.fail(fmt.Errorf("$(%s) refers to a Secret's key, which is not supported yet: hand the secret to the program as a variable or a file of its own", name))
		return "", false
	}
	v, ok := e.spec[name]
	if !ok || e.err != nil {
		return "", false
	}
	if n := len(e.pending); n > 0 && e.pending[n-1] == name {
		return "", false // PATH: $(PATH):/more means the image's, which is not known here: it stays as written
	}
	if i := slices.Index(e.pending, name); i >= 0 {
		e.fail(fmt.Errorf("spec.env: %s refer to each other in a circle", strings.Join(slices.Sorted(slices.Values(e.pending[i:])), ", ")))
		return "", false
	}
	e.pending = append(e.pending, name)
	got := manifest.Expand(v.Value, e.lookup)
	e.pending = e.pending[:len(e.pending)-1]
	e.known[name] = got
	return got, true
}

// fail keeps the first error.
func (e *environment) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

func (e *environment) expandAll(list []string) []string {
	if list == nil {
		return nil
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = manifest.Expand(s, e.lookup)
	}
	return out
}

// nodeEnv returns what the node's name or a label of it stands for.
func nodeEnv(w manifest.Workload, key, what string) (string, error) {
	got, ok := w.NodeEnv[key]
	if !ok {
		return "", fmt.Errorf("the node has no %s", what)
	}
	return got, nil
}
