package main

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
)

// settings are the flags that several verbs share.
type settings struct {
	config, instance, stateDir, runDir string
	output                             string
	noColor                            bool
	logLevel, logFormat                string

	repo, branch, path, node    string
	labels                      map[string]string
	interval, imageInterval     time.Duration
	gitTokenFile, gitSSHKey     string
	gitKnownHosts, gitCAFile    string
	registryAuth, registryCA    string
	registryMirrors             []string
	imageGCHigh, imageGCLow     int
	maxRemove, maxUnavailable   string
	reserve                     map[string]string
	allowCapture, allowHostPath []string
	allowSecretPath             []string
	allowDevice                 []string
	allowPrivileged             bool
	listen, listenTokenFile     string
	bridgeCIDR                  string
}

// defaultInstance is the instance whose directories carry no name of their own.
const defaultInstance = "default"

// addGlobal adds the flags that every verb has.
func (s *settings) addGlobal(f *pflag.FlagSet) {
	f.StringVar(&s.config, "config", "", "read flags from this YAML `FILE`, one `flag: value` a line")
	f.StringVar(&s.instance, "instance", defaultInstance, "`NAME` of this instance, so that several agents can share one server")
	f.StringVar(&s.stateDir, "state-dir", "", "`DIR` for what survives a reboot (default /var/lib/reconciler, with -NAME for another instance)")
	f.StringVar(&s.runDir, "run-dir", "", "`DIR` for sockets and what a reboot may clear (default /run/reconciler, with -NAME for another instance)")
	f.StringVarP(&s.output, "output", "o", "table", "`FORMAT` of what is listed: table, wide, json or yaml")
	f.BoolVar(&s.noColor, "no-color", false, "no colours (as does a NO_COLOR variable that is not empty)")
	f.StringVar(&s.logLevel, "log-level", "info", "`LEVEL` from which on to log: debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "text", "`FORMAT` of the log on stderr: text or json")
}

// addSource adds the flags that say where manifests come from and for which node they are.
func (s *settings) addSource(f *pflag.FlagSet) {
	f.StringVar(&s.repo, "repo", "", "the repository: an https, http, ssh or file `URL`, a bare repository, or a plain directory")
	f.StringVar(&s.branch, "branch", "main", "the `BRANCH` to follow")
	f.StringVar(&s.path, "path", ".", "the `DIR` in the repository with the manifests")
	s.addNode(f)
	f.StringVar(&s.gitTokenFile, "git-token-file", "", "`FILE` with a token, or user:password, for https")
	f.StringVar(&s.gitSSHKey, "git-ssh-key", "", "`FILE` with the private key for ssh")
	f.StringVar(&s.gitKnownHosts, "git-known-hosts", "", "`FILE` with the host keys that are trusted for ssh (default ~/.ssh/known_hosts)")
	f.StringVar(&s.gitCAFile, "git-ca-file", "", "`FILE` with certificates to trust besides the system's, for https")
}

// addNode adds the flags that say which node this server is.
func (s *settings) addNode(f *pflag.FlagSet) {
	f.StringVar(&s.node, "node", "", "`NAME` of this node (default the host name)")
	f.StringToStringVar(&s.labels, "label", nil, "label `KEY=VALUE` of this node, where the repository has no Node manifests (may be repeated)")
	f.Lookup("label").DefValue = "" // help would show an empty list as the default
}

// addRegistry adds the flags for pulling images.
func (s *settings) addRegistry(f *pflag.FlagSet) {
	f.StringVar(&s.registryAuth, "registry-auth", "", "`FILE` with registry credentials, in the format of docker's config.json")
	f.StringVar(&s.registryCA, "registry-ca", "", "`FILE` with certificates to trust besides the system's, for registries")
	f.StringSliceVar(&s.registryMirrors, "registry-mirror", nil, "`HOST=URL` of a mirror to try first for a registry (may be repeated)")
}

// addAllow adds the flags with which a server's administrator lets manifests reach out of their containers.
func (s *settings) addAllow(f *pflag.FlagSet) {
	f.StringSliceVar(&s.allowCapture, "allow-capture", nil, "path `PREFIX` below which containers may be captured from this server's files (may be repeated)")
	f.StringSliceVar(&s.allowHostPath, "allow-host-path", nil, "path `PREFIX` below which hostPath mounts are allowed (may be repeated)")
	f.StringSliceVar(&s.allowSecretPath, "allow-secret-path", nil, "path `PREFIX` below which Secrets may be read (may be repeated)")
	f.StringSliceVar(&s.allowDevice, "allow-device", nil, "`PATH` of a device, or of a directory of devices, that containers may use (may be repeated)")
	f.BoolVar(&s.allowPrivileged, "allow-privileged", false, "allow privileged containers, which are root on this server")
}

// addLoop adds the flags of the loop itself, for agent and sync.
func (s *settings) addLoop(f *pflag.FlagSet) {
	f.DurationVar(&s.interval, "interval", 30*time.Second, "look at the repository every `DURATION`")
	f.DurationVar(&s.imageInterval, "image-interval", time.Hour, "look up images with imagePullPolicy Always every `DURATION`")
	f.IntVar(&s.imageGCHigh, "image-gc-high", 85, "`PERCENT` of the disk in use from which on unused images are removed")
	f.IntVar(&s.imageGCLow, "image-gc-low", 75, "`PERCENT` of the disk in use down to which unused images are removed")
	f.StringVar(&s.maxRemove, "max-remove", "50%", "`SHARE` of this node's containers that one commit may remove without approval")
	f.StringVar(&s.maxUnavailable, "max-unavailable", "25%", "`SHARE` of this node's containers that may be stopped for replacement at a time, at least one")
	f.StringToStringVar(&s.reserve, "reserve", nil, "`RESOURCE=AMOUNT` of this server that containers cannot request, such as cpu=500m,memory=1Gi,disk=10Gi (may be repeated)")
	f.Lookup("reserve").DefValue = ""
}

// addAll adds every flag that the agent has.
func (s *settings) addAll(f *pflag.FlagSet) {
	s.addSource(f)
	s.addRegistry(f)
	s.addAllow(f)
	s.addLoop(f)
	f.StringVar(&s.bridgeCIDR, "bridge-cidr", "", "`NETWORK` of this instance's containers, such as 10.77.0.0/16 (default one that nothing on this server uses)")
	f.StringVar(&s.listen, "listen", "", "`ADDR` on which to serve health, metrics and what may be read, besides the unix socket")
	f.StringVar(&s.listenTokenFile, "listen-token-file", "", "`FILE` with a token; who sends it to --listen may change things too")
}

// hideListen keeps the flags of a server out of the help of verbs that serve nothing but share the agent's flags.
func (s *settings) hideListen(f *pflag.FlagSet) {
	for _, name := range []string{"listen", "listen-token-file"} {
		f.Lookup(name).Hidden = true
	}
}

// instanceName is what an instance may be called: it becomes part of directory and cgroup names.
func instanceName(s string) bool {
	return len(s) <= 32 && regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`).MatchString(s)
}

// resolve fills in what depends on other flags and refuses what cannot be.
func (s *settings) resolve() error {
	if !instanceName(s.instance) {
		return withHint(fmt.Errorf("--instance %q: not a name", s.instance), "use up to 32 lower-case letters, digits and dashes")
	}
	// Another instance lives beside the default one, never inside it.
	suffix := ""
	if s.instance != defaultInstance {
		suffix = "-" + s.instance
	}
	if s.stateDir == "" {
		s.stateDir = "/var/lib/reconciler" + suffix
	}
	if s.runDir == "" {
		s.runDir = "/run/reconciler" + suffix
	}
	for _, dir := range []struct{ flag, path string }{{"--state-dir", s.stateDir}, {"--run-dir", s.runDir}} {
		if !strings.HasPrefix(dir.path, "/") {
			return withHint(fmt.Errorf("%s %s: not an absolute path", dir.flag, dir.path), "the supervisor outlives this directory of work: give the whole path")
		}
	}
	for _, allow := range []struct {
		flag     string
		prefixes []string
	}{
		{"--allow-capture", s.allowCapture},
		{"--allow-host-path", s.allowHostPath},
		{"--allow-secret-path", s.allowSecretPath},
	} {
		for _, prefix := range allow.prefixes {
			if !strings.HasPrefix(prefix, "/") {
				return withHint(fmt.Errorf("%s %s: not an absolute path", allow.flag, prefix), "manifests name this server's files from the root: so does what allows them")
			}
		}
	}
	if s.node == "" {
		host, err := os.Hostname()
		if err != nil {
			return withHint(fmt.Errorf("find this node's name: %w", err), "name it with --node")
		}
		s.node = host
	}
	return nil
}

// percent reads "50%" or "50".
func percent(flag, value string) (int, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(value, "%"))
	if err != nil || n < 0 || n > 100 {
		return 0, withHint(fmt.Errorf("%s %q: not a share", flag, value), "write it in percent, such as 50%%")
	}
	return n, nil
}

// reserved reads the values of --reserve.
func reserved(values map[string]string) (plan.Amounts, error) {
	var out plan.Amounts
	for _, name := range sortedKeys(values) {
		var err error
		switch name {
		case "cpu":
			var cpu manifest.MilliCPU
			cpu, err = manifest.ParseMilliCPU(values[name])
			out.CPUMillis = int64(cpu)
		case "memory":
			out.Memory, err = parseBytes(values[name])
		case "disk":
			out.Disk, err = parseBytes(values[name])
		default:
			err = errors.New("no such resource: want cpu, memory or disk")
		}
		if err != nil {
			return plan.Amounts{}, withHint(fmt.Errorf("--reserve %s=%s: %w", name, values[name], err), "write it as --reserve cpu=500m,memory=1Gi,disk=10Gi")
		}
	}
	return out, nil
}

func parseBytes(s string) (int64, error) {
	n, err := manifest.ParseBytes(s)
	return int64(n), err
}
