package manifest

import (
	"bytes"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones are the same on every machine, also on one without a zone database

	"github.com/robfig/cron/v3"
)

func (c *checker) lifecycle(s *Spec) {
	for _, probe := range []struct {
		name  string
		probe *Probe
	}{{"startupProbe", s.StartupProbe}, {"readinessProbe", s.ReadinessProbe}, {"livenessProbe", s.LivenessProbe}} {
		if probe.probe != nil {
			c.probe(probe.probe, at(probe.name), s.Ports)
		}
	}
	if s.Lifecycle == nil {
		return
	}
	for _, h := range []struct {
		name    string
		handler *Handler
	}{{"postStart", s.Lifecycle.PostStart}, {"preStop", s.Lifecycle.PreStop}} {
		if h.handler != nil {
			c.actions(at("lifecycle", h.name), []string{"exec", "httpGet"}, h.handler.Exec, h.handler.HTTPGet, nil, s.Ports)
		}
	}
}

func (c *checker) probe(probe *Probe, p place, ports []Port) {
	c.actions(p, []string{"exec", "httpGet", "tcpSocket"}, probe.Exec, probe.HTTPGet, probe.TCPSocket, ports)
	c.atLeast(p.to("initialDelaySeconds"), probe.InitialDelaySeconds, 0)
	c.atLeast(p.to("periodSeconds"), probe.PeriodSeconds, 1)
	c.atLeast(p.to("timeoutSeconds"), probe.TimeoutSeconds, 1)
	c.atLeast(p.to("successThreshold"), probe.SuccessThreshold, 1)
	c.atLeast(p.to("failureThreshold"), probe.FailureThreshold, 1)
	c.atLeast(p.to("terminationGracePeriodSeconds"), probe.TerminationGracePeriodSeconds, 0)
	if p[0] == "readinessProbe" && probe.TerminationGracePeriodSeconds != nil {
		c.problem(p.to("terminationGracePeriodSeconds"), "is for probes that end the container, not for a readinessProbe")
	}
	if n := probe.SuccessThreshold; n != nil && *n > 1 && p[0] != "readinessProbe" {
		c.problem(p.to("successThreshold"), "must be 1 but for a readinessProbe")
	}
}

// actions wants exactly one of those that are known here.
func (c *checker) actions(p place, known []string, exec *ExecAction, get *HTTPGetAction, socket *TCPSocketAction, ports []Port) {
	var found []string
	for _, name := range known {
		if c.has(p.to(name)) {
			found = append(found, name)
		}
	}
	if len(found) != 1 {
		c.problem(p, "want exactly one of %s", strings.Join(known, ", "))
	}
	if exec != nil && len(exec.Command) == 0 {
		c.problem(p.to("exec", "command"), "want a command")
	}
	if get != nil {
		c.portRef(p.to("httpGet", "port"), get.Port, ports)
		if get.Path != "" && !strings.HasPrefix(get.Path, "/") {
			c.problem(p.to("httpGet", "path"), "want a path that begins with /, not %s", quote(get.Path))
		}
	}
	if socket != nil {
		c.portRef(p.to("tcpSocket", "port"), socket.Port, ports)
	}
}

func (c *checker) portRef(p place, ref PortRef, ports []Port) {
	n, err := strconv.ParseInt(string(ref), 10, 64)
	switch {
	case ref == "":
		c.problem(p, "is missing: want the number or the name of a port")
	case err == nil:
		c.port(p, n)
	case !slices.ContainsFunc(ports, func(o Port) bool { return o.Name == string(ref) }):
		var names []string
		for _, o := range ports {
			names = append(names, o.Name)
		}
		c.problem(p, "no port is named %s%s", quote(string(ref)), c.d.didYouMean(string(ref), names))
	}
}

func (c *checker) initContainers(s *Spec) {
	seen := make(map[string]bool)
	for i := range s.InitContainers {
		ic, p := &s.InitContainers[i], at("initContainers", i)
		if ic.Name == "" {
			c.problem(p.to("name"), "is missing")
		} else {
			c.label(p.to("name"), ic.Name)
		}
		if seen[ic.Name] {
			c.problem(p.to("name"), "%s stands twice", quote(ic.Name))
		}
		seen[ic.Name] = true
		if ic.Image != "" {
			c.image(&ic.Image, p.to("image"))
		}
		if ic.WorkingDir != "" {
			c.absolute(p.to("workingDir"), ic.WorkingDir)
		}
		c.env(ic.Env, p.to("env"))
		c.envFrom(ic.EnvFrom, p.to("envFrom"))
		c.mounts(ic.Mounts, p.to("mounts"))
		if ic.SecurityContext != nil {
			c.initSecurity(s, ic.SecurityContext, p.to("securityContext"))
		}
	}
}

// initSecurity refuses what an init container cannot have by itself: the user ids are those of its container, whose files
// and network it shares.
func (c *checker) initSecurity(s *Spec, sc *SecurityContext, p place) {
	c.security(s, sc, p)
	if sc.HostUsers != nil {
		c.problem(p.to("hostUsers"), "belongs to the container, whose user ids its init containers have: write it there")
	}
	if whole := s.SecurityContext; sc.Privileged != nil && *sc.Privileged && (whole == nil || whole.Privileged == nil || !*whole.Privileged) {
		c.problem(p.to("privileged"), "the container is not privileged, whose user ids its init containers have: write it there too")
	}
}

func (c *checker) restarts(s *Spec) {
	if s.StopSignal != "" {
		c.signal(at("stopSignal"), s.StopSignal)
	}
	c.atLeast(at("terminationGracePeriodSeconds"), s.TerminationGracePeriodSeconds, 0)
	if n := s.TerminationGracePeriodSeconds; n != nil && *n > 24*60*60 {
		c.problem(at("terminationGracePeriodSeconds"), "want at most a day (86400), not %d", *n)
	}
	if b := s.RestartBackoff; b != nil {
		initial, longest := Duration(DefaultBackoffInitial), Duration(DefaultBackoffMax)
		if b.Initial != nil {
			initial = *b.Initial
		}
		if b.Max != nil {
			longest = *b.Max
		}
		switch least := Duration(100 * time.Millisecond); {
		case initial < least:
			c.problem(at("restartBackoff", "initial"), "want at least %s, not %s", least, initial)
		case longest < initial:
			c.problem(at("restartBackoff", "max"), "%s is less than initial, which is %s", longest, initial)
		}
	}
	if st := s.Strategy; st != nil {
		c.atLeast(at("strategy", "minReadySeconds"), st.MinReadySeconds, 0)
		c.atLeast(at("strategy", "progressDeadlineSeconds"), st.ProgressDeadlineSeconds, 1)
	}
	if c.kind != KindContainer && s.RestartPolicy == RestartAlways {
		c.problem(at("restartPolicy"), "a %s ends: want OnFailure or Never", c.kind)
	}
}

func (c *checker) dependencies(all []Dependency) {
	seen := make(map[Name]int)
	for i, dep := range all {
		p := at("dependsOn", i)
		name, err := ParseName(dep.Name, c.namespace)
		if err != nil {
			c.problem(p, "want NAME or NAMESPACE/NAME, not %s", quote(dep.Name))
			continue
		}
		if before, ok := seen[name]; ok {
			c.problem(p, "%s stands twice: also at %s", quote(dep.Name), c.field(at("dependsOn", before)))
		}
		seen[name] = i
		c.refer(p, reference{kind: refDependsOn, name: dep.Name})
	}
}

// fieldKinds returns the kinds that a field of the spec is for, nil for every kind.
func fieldKinds(types typeCache, field string) []Kind {
	spec := types.of(reflect.TypeFor[Spec]())
	if i := slices.Index(spec.names, field); i >= 0 {
		return spec.fields[i].kinds
	}
	return nil
}

// kindsOf is fieldKinds of a field of the struct owner.
func kindsOf(owner reflect.Type, field string) []Kind {
	switch {
	case field == "onNewNode":
		return []Kind{KindJob}
	case owner == reflect.TypeFor[JobSpec]():
		return []Kind{KindJob, KindCronJob}
	case owner == reflect.TypeFor[CronJobSpec]():
		return []Kind{KindCronJob}
	default:
		return nil
	}
}

// job checks the fields of Job and CronJob, and that no other kind has them.
func (c *checker) job(s *Spec) {
	for _, f := range c.d.types.of(reflect.TypeFor[Spec]()).fields {
		if f.kinds != nil && !slices.Contains(f.kinds, c.kind) && c.has(at(f.name)) {
			c.problem(at(f.name), "is a field of %s, not of %s", joinKinds(f.kinds), c.kind)
		}
	}
	if c.kind == KindContainer {
		return
	}
	c.atLeast(at("backoffLimit"), s.BackoffLimit, 0)
	c.atLeast(at("activeDeadlineSeconds"), s.ActiveDeadlineSeconds, 1)
	c.atLeast(at("ttlSecondsAfterFinished"), s.TTLSecondsAfterFinished, 0)
	c.script(s)
	if c.kind != KindCronJob {
		return
	}
	c.atLeast(at("startingDeadlineSeconds"), s.StartingDeadlineSeconds, 0)
	c.atLeast(at("successfulJobsHistoryLimit"), s.SuccessfulJobsHistoryLimit, 0)
	c.atLeast(at("failedJobsHistoryLimit"), s.FailedJobsHistoryLimit, 0)
	switch schedule, err := cron.ParseStandard(s.Schedule); {
	case s.Schedule == "":
		c.problem(at("schedule"), "is missing: want five fields such as \"30 4 * * *\", @hourly or \"@every 10m\"")
	case strings.Contains(s.Schedule, "TZ="):
		c.problem(at("schedule"), "the zone goes into timeZone")
	case err != nil:
		c.problem(at("schedule"), "want five fields such as \"30 4 * * *\", @hourly or \"@every 10m\", not %s: %s", quote(s.Schedule), printable(clip(err.Error())))
	case schedule.Next(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero():
		c.problem(at("schedule"), "%s never comes: no such day is in the calendar", quote(s.Schedule))
	}
	if s.TimeZone != "" {
		if _, err := time.LoadLocation(s.TimeZone); err != nil || s.TimeZone == "Local" {
			c.problem(at("timeZone"), "want a zone such as UTC or Europe/Berlin, not %s", quote(s.TimeZone))
		}
	}
}

func joinKinds(kinds []Kind) string {
	var words []string
	for _, k := range kinds {
		words = append(words, string(k))
	}
	return strings.Join(words, " and ")
}

func (c *checker) script(s *Spec) {
	if s.Script == nil {
		return
	}
	hasFile, hasInline := c.has(at("script", "file")), c.has(at("script", "inline"))
	if hasFile == hasInline {
		c.problem(at("script"), "want exactly one of file and inline")
		return
	}
	if hasFile {
		if full, ok := c.repositoryFile(at("script", "file"), s.Script.File, false); ok {
			s.Script.File = full
			data, err := readBounded(c.tree, full)
			if err != nil {
				c.problem(at("script", "file"), "%s cannot be read: %s", quote(full), withoutPath(err))
			}
			s.Script.Content = data
		}
	}
	if len(s.Command) == 0 {
		c.runnable(s.Script.Code())
	}
}

// runnable wants code that the kernel can run by itself.
func (c *checker) runnable(code []byte) {
	first, _, _ := bytes.Cut(code, []byte("\n"))
	switch {
	case len(code) == 0 || bytes.HasPrefix(code, []byte("\x7fELF")):
	case !bytes.HasPrefix(code, []byte("#!")):
		c.problem(at("script"), "nothing says what runs it: begin it with a line such as #!/bin/sh, or name its interpreter in command")
	case bytes.HasSuffix(first, []byte("\r")):
		c.problem(at("script"), "its first line ends with a carriage return, which would be taken for a part of the interpreter's name: save it with Unix line ends")
	}
}

// Code returns the script itself.
func (s Script) Code() []byte {
	if s.Inline != "" {
		return []byte(s.Inline)
	}
	return s.Content
}
