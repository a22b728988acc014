package manifest

// configClass says what a change of one key of a Config asks of a container with the spec s.
func configClass(s Spec, name, key string) Class {
	return contentClass(s,
		func(v EnvValue) bool { return v.Config == name && v.Key == key },
		func(e EnvFrom) bool { return e.Config == name },
		func(m Mount) bool { return m.Config == name && (m.Key == "" || m.Key == key) })
}

// SecretClass says what a change of a Secret's files asks of a container with the spec s.
func SecretClass(s Spec, name string) Class {
	return contentClass(s,
		func(v EnvValue) bool { return v.Secret == name },
		func(e EnvFrom) bool { return e.Secret == name },
		func(m Mount) bool { return m.Secret == name })
}

// contentClass is a new container, unless the content is only mounted in ways that swap files below a running one. Each
// function says whether something of the spec uses the content.
func contentClass(s Spec, env func(EnvValue) bool, from func(EnvFrom) bool, mount func(Mount) bool) Class {
	class := ClassNone
	look := func(vars map[string]EnvValue, sources []EnvFrom, mounts []Mount) {
		for _, v := range vars {
			if env(v) {
				class = ClassReplace
			}
		}
		for _, e := range sources {
			if from(e) {
				class = ClassReplace
			}
		}
		for _, m := range mounts {
			switch {
			case !mount(m) || class == ClassReplace:
			case m.reloads() && m.Key == "":
				class = ClassLimits
			default:
				class = ClassReplace
			}
		}
	}
	look(s.Env, s.EnvFrom, s.Mounts)
	for _, ic := range s.InitContainers {
		look(ic.Env, ic.EnvFrom, ic.Mounts)
	}
	return class
}

// reloads reports whether the mount's files are swapped while the container runs.
func (m Mount) reloads() bool {
	return m.OnChange != nil && (m.OnChange.Action == OnChangeSignal || m.OnChange.Action == OnChangeNone)
}
