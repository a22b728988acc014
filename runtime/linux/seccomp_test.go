package linux_test

import (
	"strings"
	"testing"

	"reconciler/runtime"
)

// forUserIDs runs a test with user ids of the container's own, and with the server's.
func forUserIDs(t *testing.T, test func(t *testing.T, hostUsers *bool)) {
	t.Helper()
	t.Run("own user ids", func(t *testing.T) { test(t, new(false)) })
	t.Run("the server's user ids", func(t *testing.T) { test(t, new(true)) })
}

// A profile of the repository's is what counts: it forbids what the usual one allows, and allows what that forbids.
func TestSeccompProfileOfTheRepository(t *testing.T) {
	forUserIDs(t, func(t *testing.T, hostUsers *bool) {
		e := newEnv(t)
		spec := e.sh("web", "echo started; busybox mkdir /tmp/x; busybox unshare -r true && echo unshared; grep Seccomp: /proc/self/status")
		spec.Security.HostUsers = hostUsers
		out, _ := e.run(spec)
		if strings.Contains(out, "mkdir:") || strings.Contains(out, "unshared") {
			t.Fatalf("the usual filter: %s", out)
		}
		spec.Security.SeccompProfile = []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
			{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28},
			{"names": ["write"], "action": "SCMP_ACT_ERRNO", "includes": {"minKernel": "99.0"}},
			{"names": ["write"], "action": "SCMP_ACT_ERRNO", "excludes": {"caps": ["CAP_CHOWN"]}}
		]}`)
		spec.Name.Name = "own-profile"
		out, _ = e.run(spec)
		e.expect(out, "started\n", "mkdir: can't create directory '/tmp/x': No space left on device", "unshared", "Seccomp:\t2")
	})
}

// A profile that forbids what every start needs is told of, and nothing is left.
func TestSeccompProfileThatForbidsToStart(t *testing.T) {
	e := newEnv(t)
	for _, c := range []struct{ profile, want string }{
		{`{"defaultAction": "SCMP_ACT_KILL_PROCESS"}`, "process 1 ended before it could execute the command"},
		{`{"defaultAction": `, "seccomp profile: Decoding seccomp profile failed"},
		{`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]}`, "SCMP_ARCH_Z80 is not a valid arch"},
		{`{}`, "seccomp profile: it filters nothing"},
	} {
		spec := e.sh("web", "sleep 1000")
		spec.Security = runtime.Security{SeccompProfile: []byte(c.profile)}
		if err := e.Start(t.Context(), e.create(spec)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.profile, err)
		}
	}
}
