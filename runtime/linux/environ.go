package linux

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"reconciler/runtime"
)

// variables are what a spec adds to the image's environment, each name once.
type variables struct {
	env      []runtime.EnvVar  // sorted by name; secrets by reference
	secrets  map[string]string // the values of those, by the variable's name; they must never reach a disk
	warnings []string
}

// variables reads what the spec's variables are now: sources in their order, then those that are named one by one.
func (r *Runtime) variables(spec runtime.Spec) (variables, error) {
	byName := map[string]runtime.EnvVar{}
	v := variables{secrets: map[string]string{}}
	usable := regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`)
	for _, source := range spec.EnvFrom {
		for name, value := range source.Values {
			byName[name] = runtime.EnvVar{Name: name, Value: value}
			delete(v.secrets, name)
		}
		if source.SecretDirectory == "" {
			continue
		}
		values, err := r.roots.SecretValues(source.SecretDirectory)
		if err != nil {
			return variables{}, err
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			if !usable.MatchString(key) {
				v.warnings = append(v.warnings, fmt.Sprintf("key %q of the secret in %s cannot name a variable and is left out", key, source.SecretDirectory))
				continue
			}
			byName[key] = runtime.EnvVar{Name: key, Secret: &runtime.SecretKey{Directory: source.SecretDirectory, Key: key}}
			v.secrets[key] = values[key]
		}
	}
	for _, e := range spec.Env {
		byName[e.Name] = e
		delete(v.secrets, e.Name)
		if e.Secret == nil {
			continue
		}
		value, err := r.roots.SecretValue(e.Name, *e.Secret)
		if err != nil {
			return variables{}, err
		}
		v.secrets[e.Name] = value
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		v.env = append(v.env, byName[name])
	}
	return v, nil
}
