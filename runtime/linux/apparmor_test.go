package linux_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"reconciler/runtime"
)

func hasAppArmor() bool {
	_, err := os.Stat("/sys/kernel/security/apparmor")
	return err == nil
}

// needsAppArmor skips a test where the kernel has no profiles, or nothing loads them.
func needsAppArmor(t *testing.T) {
	t.Helper()
	if !hasAppArmor() {
		t.Skip("this kernel has no AppArmor")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skip("needs apparmor_parser (package apparmor)")
	}
}

// Everything that is run in a container has the profile, which forbids what capabilities and seccomp allow; and none of that is so
// where its manifest says so.
func TestAppArmor(t *testing.T) {
	needsAppArmor(t)
	const try = "cat /proc/self/attr/current; mount -t tmpfs none /tmp && echo mounted; echo done"
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		spec := e.sh("web", try+"; sleep 1000")
		spec.Security = runtime.Security{HostUsers: hostUsers, CapAdd: []string{"SYS_ADMIN"}, SeccompUnconfined: true}
		id := e.start(spec)
		e.said(id, "done")
		executed, _ := e.exec(id, "sh", "-c", try)
		for _, out := range []string{e.output(id), executed} {
			e.expect(out, "reconciler-default (enforce)", "mount: mounting none on /tmp failed: Permission denied")
		}
		if warnings := e.status(id).Warnings; len(warnings) != 1 { // of the image's VOLUME
			t.Errorf("warnings %v", warnings)
		}
		free := spec
		free.Name.Name, free.Command, free.Security.AppArmor = "free", []string{"/bin/sh", "-c", try}, runtime.AppArmorUnconfined
		out, _ := e.run(free)
		e.expect(out, "unconfined\n", "mounted\n")
	})
}

// loadProfile loads a profile with these rules under a name of the test's own, and returns that and what unloads it.
func (e *env) loadProfile(rules string) (name string, unload func()) {
	e.Helper()
	name = "rl-" + e.cfg.Instance
	parser := func(flag string) error {
		cmd := exec.CommandContext(context.WithoutCancel(e.Context()), "apparmor_parser", "-K", flag)
		cmd.Stdin = strings.NewReader("profile " + name + " flags=(attach_disconnected,mediate_deleted) {\n" + rules + "\n}\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	if err := parser("-r"); err != nil {
		e.Fatal(err)
	}
	unload = sync.OnceFunc(func() {
		if err := parser("-R"); err != nil {
			e.Error(err)
		}
	})
	e.Cleanup(unload)
	return name, unload
}

// A profile of the administrator's is what counts instead: it forbids what the usual one allows, and allows what that forbids. That it
// was unloaded after the container was made is told of.
func TestAppArmorProfileOfTheServer(t *testing.T) {
	needsAppArmor(t)
	const try = "cat /proc/self/attr/current; cat /srv/seed; mount -t tmpfs none /tmp && echo mounted; echo done"
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		profile, unload := e.loadProfile("file, capability, network, mount, signal, umount,\n deny /srv/** r,")
		spec := e.sh("web", try+"; sleep 1000")
		spec.Security = runtime.Security{HostUsers: hostUsers, AppArmor: profile, CapAdd: []string{"SYS_ADMIN"}, SeccompUnconfined: true}
		id := e.start(spec)
		e.said(id, "done")
		executed, _ := e.exec(id, "sh", "-c", try)
		e.expect(e.output(id), profile+" (enforce)", "cat: can't open '/srv/seed': Permission denied", "mounted\n")
		e.expect(executed, profile+" (enforce)", "cat: can't open '/srv/seed': Permission denied")
		if err := e.Stop(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
		unload()
		err := e.Start(t.Context(), id)
		if runtime.ReasonOf(err) != runtime.ReasonIncompatible || !strings.Contains(err.Error(), "it is not loaded on this server") {
			t.Errorf("after it was unloaded: %v", err)
		}
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
