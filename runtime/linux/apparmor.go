package linux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/moby/profiles/apparmor"

	"reconciler/runtime"
)

// appArmorProfile is Moby's default profile under a name of our own, which every instance of this server shares.
const appArmorProfile = "reconciler-default"

// errNoAppArmorParser says that nothing on this server can load a profile.
var errNoAppArmorParser = errors.New("apparmor_parser is not installed")

// hasAppArmor says whether the kernel confines by profiles, by the rule of libcontainer.
func hasAppArmor() bool {
	if _, err := os.Stat("/sys/kernel/security/apparmor"); err != nil {
		return false
	}
	data, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(data), "Y")
}

// appArmor loads the profile of our own.
type appArmor struct {
	mu     sync.Mutex
	loaded bool // by this process: what an older release loaded is another one
}

// load makes sure that the kernel has our profile.
func (a *appArmor) load() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	there, err := apparmor.IsLoaded(appArmorProfile)
	if err != nil {
		return err
	}
	if there && a.loaded {
		return nil
	}
	if _, err = exec.LookPath("apparmor_parser"); err != nil {
		if there {
			return nil
		}
		return errNoAppArmorParser
	}
	if err = apparmor.InstallDefault(appArmorProfile); err != nil {
		return err
	}
	a.loaded = true
	return nil
}

// appArmorOf returns the profile for a container, empty for none. Where our own cannot be loaded, the container runs without and
// the warning says so.
func (r *Runtime) appArmorOf(sec runtime.Security) (profile, warning string) {
	switch {
	case sec.AppArmor == runtime.AppArmorUnconfined, sec.Privileged && sec.AppArmor == "":
		return "", ""
	case sec.AppArmor != "":
		return sec.AppArmor, ""
	case !r.host.AppArmor:
		return "", ""
	}
	if err := r.appArmor.load(); err != nil {
		return "", "it has no AppArmor profile: " + err.Error()
	}
	return appArmorProfile, ""
}

// checkAppArmorProfile says whether a profile that a container names is there.
func (r *Runtime) checkAppArmorProfile(spec runtime.Spec) error {
	name := spec.Security.AppArmor
	if name == "" || name == runtime.AppArmorUnconfined {
		return nil
	}
	e := &runtime.Error{Op: "confine " + spec.Name.String() + " with the AppArmor profile " + name, Reason: runtime.ReasonIncompatible}
	if !r.host.AppArmor {
		e.Err, e.Permanent = errors.New("this server has no AppArmor"), true
		e.Hint = "run it on another node, or say `appArmorProfile: {type: RuntimeDefault}` to have none here"
		return e
	}
	loaded, err := apparmor.IsLoaded(name)
	if err != nil {
		return fmt.Errorf("look for AppArmor profiles: %w", err)
	}
	if !loaded {
		e.Err, e.Hint = errors.New("it is not loaded on this server"), "load it with `apparmor_parser -r FILE`, and at each boot from /etc/apparmor.d"
		return e
	}
	return nil
}

// checkAppArmor is the line of Doctor.
func checkAppArmor() Check {
	c := Check{
		Name: "apparmor", Detail: "off: containers are confined by namespaces, capabilities and seccomp alone",
		Remedy: "boot with apparmor=1 security=apparmor if the distribution has it",
	}
	if !hasAppArmor() {
		return c
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		c.Detail = "on, but containers get no profile: " + errNoAppArmorParser.Error()
		c.Remedy = "install it, such as with apt-get install apparmor"
		return c
	}
	c.OK, c.Detail = true, "on: containers get the profile "+appArmorProfile
	return c
}
