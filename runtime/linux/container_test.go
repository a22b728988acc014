package linux_test

import (
	"strings"
	"testing"
)

func TestIsolation(t *testing.T) {
	e := newEnv(t)
	out, st := e.run(e.sh("web", `
		echo pid $$
		hostname
		echo env $FROM_IMAGE $HOME $HOSTNAME
		id
		pwd
		ls /
		grep -E '^(NoNewPrivs|Seccomp|CapEff|CapBnd|CapPrm):' /proc/self/status
		ip -o addr
		cat /etc/hosts /etc/hostname
		mknod /tmp/sda b 8 0 2>&1
		mount -t tmpfs none /tmp 2>&1
		echo x 2>&1 > /proc/sys/kernel/hostname
		cat /proc/sched_debug /proc/keys /proc/interrupts 2>/dev/null | wc -c
		ls /proc | grep -c '^[0-9]'
		cat /proc/1/oom_score_adj
	`))
	for _, want := range []string{
		"pid 1\n", "\nweb\n", "env yes /root web\n", "uid=0(root) gid=0(root)\n",
		"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t00000000800405fb", "CapBnd:\t00000000800405fb", "127.0.0.1/8", "127.0.0.1\tweb",
		"mknod: /tmp/sda: Operation not permitted", "permission denied", "Read-only file system", "\n0\n", "\n500\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q", want)
		}
	}
	if st.ExitCode == nil || *st.ExitCode != 0 || t.Failed() {
		t.Errorf("exit %v, output:\n%s", st.ExitCode, out)
	}
}
