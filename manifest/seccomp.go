package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// seccomp checks where a filter on system calls comes from, and reads the file of a Localhost profile.
func (c *checker) seccomp(p place, sp *SeccompProfile) {
	file := p.to("localhostProfile")
	switch {
	case sp.Type == "" && !c.has(p.to("type")):
		c.problem(p.to("type"), "is missing: want one of %s", strings.Join(sp.Type.words(), ", "))
	case sp.Type == ProfileLocalhost:
		full, ok := c.repositoryFile(file, sp.LocalhostProfile, false)
		if !ok {
			return
		}
		sp.LocalhostProfile = full
		content, err := c.profile(full)
		if err != nil {
			c.problem(file, "%s %s", quote(full), err)
			return
		}
		sp.Content = content
	case sp.LocalhostProfile != "":
		c.problem(file, "goes with type Localhost only")
	}
}

// profile is the file of a seccomp profile.
type profile struct {
	content []byte
	err     error // why it is none
}

// profile reads and checks the file of a seccomp profile, once for all who name it: they share its bytes.
func (ld *loading) profile(name string) ([]byte, error) {
	p, ok := ld.profiles[name]
	if !ok {
		if p.content, p.err = ld.readContent(name); p.err != nil {
			p.err = fmt.Errorf("cannot be read: %w", withoutPath(p.err))
		} else if err := checkSeccomp(p.content); err != nil {
			p.err = errors.New("is no seccomp profile: " + printable(err.Error()))
		}
		ld.profiles[name] = p
	}
	return p.content, p.err
}

// checkSeccomp says what is wrong with a profile as Docker and OCI write it. The words of it are checked here since a
// runtime would find them when the container starts, on every node.
func checkSeccomp(content []byte) error {
	var profile seccomp.Seccomp
	d := json.NewDecoder(bytes.NewReader(content))
	if err := d.Decode(&profile); err != nil {
		return jsonProblem(content, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("line %d: something follows the profile", lineAt(content, d.InputOffset()))
	}
	if err := seccompAction("defaultAction", profile.DefaultAction); err != nil {
		return err
	}
	switch {
	case len(profile.Architectures) > 0 && len(profile.ArchMap) > 0:
		return errors.New("architectures and archMap both stand: want one of the two")
	case profile.ListenerPath != "" || profile.ListenerMetadata != "":
		return errors.New("listenerPath: there is nobody here to listen")
	}
	for i, rule := range profile.Syscalls {
		if err := checkSeccompRule(rule); err != nil {
			return fmt.Errorf("syscalls[%d]: %w", i, err)
		}
	}
	return nil
}

func checkSeccompRule(rule *seccomp.Syscall) error {
	if rule == nil {
		return errors.New("want a mapping, not null")
	}
	old := rule.Name //nolint:staticcheck // profiles of older Dockers have it
	switch {
	case old != "" && len(rule.Names) > 0:
		return errors.New("name and names both stand: want names")
	case old == "" && len(rule.Names) == 0, slices.Contains(rule.Names, ""):
		return errors.New("names: want names of system calls")
	}
	for i, arg := range rule.Args {
		if !slices.Contains(seccompOperators(), arg.Op) {
			return fmt.Errorf("args[%d].op: %s is none that is known", i, quote(string(arg.Op)))
		}
	}
	return seccompAction("action", rule.Action)
}

func seccompAction(field string, action specs.LinuxSeccompAction) error {
	switch {
	case action == "":
		return errors.New(field + ": is missing: want one such as SCMP_ACT_ERRNO or SCMP_ACT_ALLOW")
	case action == specs.ActNotify:
		return errors.New(field + ": SCMP_ACT_NOTIFY: there is nobody here to notify")
	case !slices.Contains(seccompActions(), action):
		return fmt.Errorf("%s: %s is none that is known", field, quote(string(action)))
	}
	return nil
}

func seccompActions() []specs.LinuxSeccompAction {
	return []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno, specs.ActTrace,
		specs.ActAllow, specs.ActLog,
	}
}

func seccompOperators() []specs.LinuxSeccompOperator {
	return []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan,
		specs.OpMaskedEqual,
	}
}

// jsonProblem adds the line to what encoding/json says.
func jsonProblem(content []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("line %d: %w", lineAt(content, syntax.Offset), err)
	}
	embedded := strings.NewReplacer("LinuxSeccomp.", "", "LinuxSyscall.", "") // which are no words of the file
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("line %d: %s cannot be a %s", lineAt(content, wrong.Offset), cmp.Or(embedded.Replace(wrong.Field), "it"), wrong.Value)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too soon")
	}
	return err
}

func lineAt(content []byte, offset int64) int {
	return 1 + bytes.Count(content[:min(offset, int64(len(content)))], []byte("\n"))
}
