package manifest

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// The prefixes of images that are files of the repository.
const (
	imageOCI           = "oci:"
	imageOCIArchive    = "oci-archive:"
	imageDockerArchive = "docker-archive:"
)

// image checks a reference, and makes a path in it relative to the repository's root.
func (c *checker) image(ref *string, p place) {
	for _, prefix := range []string{imageOCI, imageOCIArchive, imageDockerArchive} {
		rest, ok := strings.CutPrefix(*ref, prefix)
		if !ok {
			continue
		}
		tag := ""
		if i := strings.LastIndexByte(rest, ':'); prefix == imageOCI && i > strings.LastIndexByte(rest, '/') {
			rest, tag = rest[:i], rest[i:]
		}
		if tag == ":" {
			c.problem(p, "want oci:PATH or oci:PATH:TAG, not %s", quote(*ref))
			return
		}
		if full, ok := c.repositoryFile(p, rest, prefix == imageOCI); ok {
			*ref = prefix + full + tag
		}
		return
	}
	switch _, err := name.ParseReference(*ref); {
	case *ref == "":
		c.problem(p, "want an image such as registry.example.com/shop/web:1.4.2, not an empty text")
	case strings.Contains(*ref, "://"):
		c.problem(p, "want an image without a scheme, such as registry.example.com/shop/web:1.4.2, not %s", quote(*ref))
	case err != nil:
		c.problem(p, "want an image such as registry.example.com/shop/web:1.4.2 or …/web@sha256:DIGEST, not %s%s", quote(*ref), why(*ref))
	}
}

// why says what is probably wrong with a reference.
func why(ref string) string {
	switch {
	case strings.ToLower(ref) != ref && !strings.ContainsAny(ref, ":@"):
		return " (names are lower case)"
	case strings.ContainsAny(ref, " \t"):
		return " (it contains a space)"
	default:
		return ""
	}
}

// repositoryFile resolves a path that stands in the field at p, and wants a file, or a directory, to be there.
func (c *checker) repositoryFile(p place, ref string, wantDir bool) (string, bool) {
	// A path that comes from the defaults of a Node is relative to the Node's manifest, where it is written.
	full, err := resolvePath(c.d.position(c.find(p)).File, ref)
	if err != nil {
		c.problem(p, "%s", err)
		return "", false
	}
	info, err := fs.Stat(c.tree, full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.problem(p, "%s does not exist in the repository", quote(full))
	case err != nil:
		c.problem(p, "%s cannot be read: %s", quote(full), withoutPath(err))
	case wantDir && !info.IsDir():
		c.problem(p, "%s is not a directory: an archive is oci-archive:PATH or docker-archive:PATH", quote(full))
	case !wantDir && !info.Mode().IsRegular():
		c.problem(p, "%s is not a regular file", quote(full))
	default:
		return full, true
	}
	return "", false
}

func withoutPath(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// signal wants the name of a signal.
func (c *checker) signal(p place, s string) {
	known := signals()
	if slices.Contains(known, s) {
		return
	}
	hint := c.d.didYouMean(s, known)
	if slices.Contains(known, "SIG"+strings.ToUpper(s)) {
		hint = "; did you mean SIG" + strings.ToUpper(s) + "?"
	}
	c.problem(p, "want the name of a signal such as SIGTERM, not %s%s", quote(s), hint)
}

func signals() []string {
	return []string{
		"SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO", "SIGKILL",
		"SIGPIPE", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP",
		"SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
		"SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6",
	}
}

// capabilities of Linux 5.9 and later; see capabilities(7).
func capabilities() []string {
	return []string{
		"AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE", "CHOWN",
		"DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE",
		"LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST",
		"NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_CHROOT",
		"SYS_MODULE", "SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG",
		"WAKE_ALARM",
	}
}
