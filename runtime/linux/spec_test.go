package linux

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"reconciler/runtime"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
)

var update = flag.Bool("update", false, "write the goldens anew")

// sampleInput is a container that asks for little.
func sampleInput() specInput {
	return specInput{
		ID: "web-1", Instance: "default",
		Spec: runtime.Spec{
			Name: runtime.Name{Namespace: "shop", Name: "web"}, Revision: "abc123", Hostname: "web", Network: runtime.NetworkNone,
		},
		Image: image.Image{
			Config:   v1.Config{Entrypoint: []string{"/bin/web"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin", "LANG=C"}},
			Platform: runtime.Platform{OS: "linux", Architecture: "amd64"},
		},
		User:  image.User{Home: "/root"},
		Root:  rootfs.Root{Path: "/run/r/containers/web-1/rootfs", Bundle: "/run/r/containers/web-1"},
		Files: ownFiles{Hosts: "/b/hosts", Hostname: "/b/hostname", ResolvConf: "/b/resolv.conf"},
		Host: host{
			Kernel: "6.1.0-28-cloud-amd64", SwapLimit: true, Mqueue: true, CPUs: []int{0},
			Caps: append(defaultCapabilities(), "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW"),
		},
	}
}

func TestSpecGoldens(t *testing.T) {
	cases := map[string]func(*specInput){
		"least": func(*specInput) {},
		"everything": func(in *specInput) {
			uid := int64(1000)
			in.User = image.User{UID: 1000, GID: 1001, Groups: []int{10}, Home: "/home/alice"}
			in.Init = "/run/r/init"
			in.Root.Mounts = []rootfs.Mounted{
				{Path: "/data", Source: "/s/volumes/shop/data/data", Exec: true},
				{Path: "/data/deep/conf", Source: "/s/files/0", ReadOnly: true, Exec: true},
				{Path: "/dev/shm", Tmpfs: &runtime.Tmpfs{Size: 1 << 20}, Exec: true},
				{Path: "/etc/hosts", Source: "/b/host/1", ReadOnly: true, Exec: true},
				{Path: "/run/secrets/tls", Source: "/b/secrets/2", ReadOnly: true},
			}
			in.Spec.Args = []string{"--port", "8080"}
			in.Spec.WorkingDir = "/srv"
			in.Spec.Env = []runtime.EnvVar{
				{Name: "LANG", Value: "C.UTF-8"},
				{Name: "TOKEN", Secret: &runtime.SecretKey{Directory: "/etc/secrets/web", Key: "token"}},
			}
			in.Spec.Limits = runtime.Resources{CPUMillis: 1500, Memory: 128 << 20, Pids: 200}
			in.Spec.ShmSize = 1 << 20
			in.Spec.Security = runtime.Security{
				User: &uid, SupplementalGroups: []int64{20, 10}, ReadOnlyRoot: true,
				CapDrop: []string{"ALL"}, CapAdd: []string{"NET_BIND_SERVICE"},
			}
			in.Root.Devices = []rootfs.Device{{Path: "/dev/snd/timer", Source: "/b/devices/0", Type: "c", Major: 116, Minor: 33, Permissions: "rw"}}
			in.AppArmor = "reconciler-default"
			in.Spec.Ulimits = map[string]int64{"nofile": 4096, "memlock": -1}
			in.Spec.Sysctls = map[string]string{"net.core.somaxconn": "1024", "net.ipv4.ip_unprivileged_port_start": "1024"}
		},
		"privileged": func(in *specInput) {
			in.Host.CgroupV1 = true
			in.Spec.Security = runtime.Security{Privileged: true, AllowPrivilegeEscalation: true, SeccompUnconfined: true, CapDrop: []string{"NET_RAW"}}
			in.Root.Devices = []rootfs.Device{{Path: "/dev/fuse", Source: "/b/devices/0", Type: "c", Major: 10, Minor: 229, Permissions: "r"}}
			in.AllDevices = []rootfs.Device{
				{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, Mode: 0o600},
				{Path: "/dev/vda", Type: "b", Major: 254, Mode: 0o660, GID: 6},
			}
		},
		"host network": func(in *specInput) {
			in.Spec.Network = runtime.NetworkHost
			in.Spec.Security = runtime.Security{SeccompUnconfined: true, AllowPrivilegeEscalation: true, CapAdd: []string{"ALL"}, CapDrop: []string{"NET_RAW"}}
			in.Host.SwapLimit, in.Host.Mqueue = false, false
			in.Spec.Limits.Memory = 1 << 20
		},
	}
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			in := sampleInput()
			change(&in)
			spec, err := ociSpec(in)
			if err != nil {
				t.Fatal(err)
			}
			if spec.Linux.Seccomp != nil {
				// Hundreds of system calls that a module brings: what matters of them is tested below.
				spec.Linux.Seccomp.Syscalls = spec.Linux.Seccomp.Syscalls[:0]
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			golden := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".json")
			if *update {
				if err = os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("differs from %s (%v); see what -update makes of it", golden, err)
			}
		})
	}
}

func TestSeccompIsMobysForOneArchitecture(t *testing.T) {
	var kernel string
	if h, err := readHost(); err != nil {
		t.Skip(err)
	} else {
		kernel = h.Kernel
	}
	for _, caps := range [][]string{nil, {"CAP_SYS_CHROOT"}, {"CAP_SYS_ADMIN", "CAP_BPF"}} {
		want, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := defaultSeccomp(goruntime.GOARCH, kernel, caps)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Architectures) != 1 || got.Architectures[0] != want.Architectures[0] {
			t.Errorf("architectures %v, Moby's are %v", got.Architectures, want.Architectures)
		}
		want.Architectures = got.Architectures
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !bytes.Equal(a, b) {
			t.Errorf("with %v: not Moby's profile", caps)
		}
	}
	allows := func(arch, kernel, call string, caps ...string) bool {
		p, err := defaultSeccomp(arch, kernel, caps)
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(p.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, call)
		})
	}
	if allows("amd64", "6.1", "mount") || !allows("amd64", "6.1", "mount", "CAP_SYS_ADMIN") {
		t.Error("mount does not go by CAP_SYS_ADMIN")
	}
	if allows("amd64", "4.4", "ptrace") || !allows("amd64", "6.1-foo", "ptrace") {
		t.Error("ptrace does not go by the kernel")
	}
	if !allows("386", "6.1", "modify_ldt") || allows("arm64", "6.1", "modify_ldt") {
		t.Error("modify_ldt does not go by the architecture")
	}
	if _, err := defaultSeccomp("z80", "6.1", nil); err == nil {
		t.Error("an unknown architecture has a profile")
	}
}

func TestCommandByKubernetesRule(t *testing.T) {
	cfg := image.Config{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct {
		command, args []string
		want          string
	}{
		{nil, nil, "entry cmd"},
		{nil, []string{"arg"}, "entry arg"},
		{[]string{"own"}, nil, "own"},
		{[]string{"own"}, []string{"arg"}, "own arg"},
	} {
		got := strings.Join(command(runtime.Spec{Command: c.command, Args: c.args}, cfg), " ")
		if got != c.want {
			t.Errorf("command %v, args %v: %q, want %q", c.command, c.args, got, c.want)
		}
	}
}

func TestUserSpec(t *testing.T) {
	n := func(i int64) *int64 { return &i }
	for _, c := range []struct {
		user, group *int64
		images      string
		want        string
	}{
		{nil, nil, "", ""},
		{nil, nil, "alice:staff", "alice:staff"},
		{n(5), nil, "alice:staff", "5"},
		{n(5), n(6), "alice:staff", "5:6"},
		{nil, n(6), "alice", "alice:6"},
		{nil, n(6), "", ":6"},
	} {
		if got := userSpec(runtime.Security{User: c.user, Group: c.group}, image.Config{User: c.images}); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	named := runtime.Security{UserName: "bob", GroupName: "staff"}
	if got := userSpec(named, image.Config{User: "alice:wheel"}); got != "bob:staff" {
		t.Errorf("by name: %q", got)
	}
}

func TestCapabilities(t *testing.T) {
	have := append(defaultCapabilities(), "CAP_SYS_ADMIN", "CAP_NET_RAW")
	for _, c := range []struct {
		name              string
		uid               int
		add, drop         []string
		in, out, effectiv []string
	}{
		{"default", 0, nil, nil, []string{"CAP_CHOWN"}, []string{"CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_MKNOD"}, []string{"CAP_CHOWN"}},
		{"drop all, add one", 0, []string{"chown"}, []string{"all"}, []string{"CAP_CHOWN"}, []string{"CAP_KILL"}, []string{"CAP_CHOWN"}},
		{"add all but one", 0, []string{"ALL"}, []string{"CAP_SYS_ADMIN"}, []string{"CAP_NET_RAW"}, []string{"CAP_SYS_ADMIN"}, []string{"CAP_NET_RAW"}},
		{"user", 7, nil, nil, []string{"CAP_CHOWN"}, nil, nil},
		{"user with one added", 7, []string{"KILL"}, nil, []string{"CAP_CHOWN"}, nil, []string{"CAP_KILL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			caps, err := capabilities(runtime.Security{CapAdd: c.add, CapDrop: c.drop}, c.uid, have)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range c.in {
				if !slices.Contains(caps.Bounding, want) {
					t.Errorf("%s is not in %v", want, caps.Bounding)
				}
			}
			for _, no := range c.out {
				if slices.Contains(caps.Bounding, no) {
					t.Errorf("%s is in %v", no, caps.Bounding)
				}
			}
			for _, want := range c.effectiv {
				if !slices.Contains(caps.Effective, want) || (c.uid != 0 && !slices.Contains(caps.Ambient, want)) {
					t.Errorf("%s is not in %+v", want, caps)
				}
			}
			if c.uid != 0 && len(caps.Effective) != len(c.effectiv) {
				t.Errorf("a user has %v", caps.Effective)
			}
		})
	}
	if _, err := capabilities(runtime.Security{CapAdd: []string{"SYS_MODULE"}}, 0, have); err == nil {
		t.Error("a capability that the server has not was given")
	}
}

func TestSecretsAreFilledInACopy(t *testing.T) {
	in := sampleInput()
	in.Spec.Env = []runtime.EnvVar{{Name: "TOKEN", Secret: &runtime.SecretKey{Directory: "/s", Key: "token"}}}
	spec, err := ociSpec(in)
	if err != nil {
		t.Fatal(err)
	}
	filled := withSecrets(spec, map[string]string{"TOKEN": "hush"})
	if !slices.Contains(filled.Process.Env, "TOKEN=hush") {
		t.Errorf("environment %v", filled.Process.Env)
	}
	if !slices.Contains(spec.Process.Env, "TOKEN=secret:/s/token") {
		t.Errorf("environment of what is kept: %v", spec.Process.Env)
	}
}

func TestIDsSortByTime(t *testing.T) {
	name := runtime.Name{Namespace: "shop", Name: "web"}
	a := newID(name, timeOf("2026-01-01T00:00:00Z"))
	b := newID(name, timeOf("2026-01-01T00:00:01Z"))
	if a >= b || a == newID(name, timeOf("2026-01-01T00:00:00Z")) || !strings.HasPrefix(string(a), "web-") {
		t.Errorf("ids %s and %s", a, b)
	}
}

func timeOf(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return at
}
