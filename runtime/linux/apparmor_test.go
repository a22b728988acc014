package linux_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"reconciler/runtime"
)

func hasAppArmor() bool {
	_, err := os.Stat("/sys/kernel/security/apparmor")
	return err == nil
}

// A container has the profile by default, and none where its manifest says so; a command that is executed inside has it too.
func TestAppArmor(t *testing.T) {
	if !hasAppArmor() {
		t.Skip("this kernel has no AppArmor")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser (package apparmor)")
	}
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		spec := e.sh("web", "cat /proc/self/attr/current; echo started; sleep 1000")
		spec.Security.HostUsers = hostUsers
		id := e.start(spec)
		e.said(id, "started")
		e.expect(e.output(id), "reconciler-default (enforce)")
		out, _ := e.exec(id, "cat", "/proc/self/attr/current")
		e.expect(out, "reconciler-default (enforce)")
		if warnings := e.status(id).Warnings; len(warnings) != 1 { // of the image's VOLUME
			t.Errorf("warnings %v", warnings)
		}
		free := e.sh("free", "cat /proc/self/attr/current")
		free.Security = runtime.Security{HostUsers: hostUsers, AppArmor: runtime.AppArmorUnconfined}
		out, _ = e.run(free)
		e.expect(out, "unconfined")
	})
}

// A profile that this server does not have is refused before anything is fetched; the usual one is not missed.
func TestAppArmorProfileThatIsNotThere(t *testing.T) {
	e := newEnv(t)
	spec := e.sh("web", "sleep 1000")
	spec.Security.AppArmor = "no-such-profile"
	_, err := e.prepare(spec)
	want := "with the AppArmor profile no-such-profile: it is not loaded on this server"
	if !hasAppArmor() {
		want = "with the AppArmor profile no-such-profile: this server has no AppArmor"
	}
	if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v", err)
	}
	if images, err := e.Images().List(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("images %v, %v", images, err)
	}
	spec.Security.AppArmor = runtime.AppArmorUnconfined
	e.start(spec)
}
