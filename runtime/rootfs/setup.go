package rootfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Request says what to set up.
type Request struct {
	Owner  runtime.Name
	Layers []string // directories, the top one first
	Mounts []runtime.Mount
	// Devices are made anew for the container, owned as on this server.
	Devices []runtime.Device
	// Users tells which other containers mount a volume now.
	Users VolumeUsers
	// FirstID is the first of the range of this server's user and group ids that are the container's 0 to 65535, of an
	// idrange.Lease; 0: the container has the server's own ids. Where files cannot be shown so, Setup fails with a
	// *NotMappableError.
	FirstID uint32
	// Disk is how many bytes the writable layer may hold; 0: as many as the state directory's disk has.
	Disk int64
}

// Root is a root file system that is set up.
type Root struct {
	Path   string // of the mounted overlay
	Bundle string // a directory in memory, for root alone, that goes at Teardown
	// Mounts are those of the request, parents before what is mounted below them.
	Mounts  []Mounted
	Devices []Device
}

// Mounted is a mount of the request with its source found, to be mounted when the container starts.
type Mounted struct {
	Path     string // inside
	Source   string // on this server, free of links; empty for a tmpfs
	ReadOnly bool
	Tmpfs    *runtime.Tmpfs
	// Exec says that programs may be run from there; files of Configs and secrets are not programs, but scripts in a
	// Config are common, so only secrets have it false.
	Exec bool
}

// Setup mounts a fresh root file system for a container and gathers what its mounts name. What an earlier Setup left of
// the container is taken away first. After an error nothing is left but volumes.
// Errors are *runtime.Error where a person can do something about them.
func (s *Store) Setup(ctx context.Context, id runtime.ID, req Request) (Root, error) {
	if err := s.Teardown(id); err != nil {
		return Root{}, err
	}
	root, err := s.setup(ctx, id, req)
	if err != nil {
		if cleanErr := s.Teardown(id); cleanErr != nil {
			err = fmt.Errorf("%w (and to clean up: %w)", err, cleanErr)
		}
		return Root{}, err
	}
	return root, nil
}

func (s *Store) setup(ctx context.Context, id runtime.ID, req Request) (Root, error) {
	mounts, err := orderMounts(req.Mounts)
	if err != nil {
		return Root{}, err
	}
	if err = s.mountMemory(); err != nil {
		return Root{}, err
	}
	ids, err := newMapper(req.FirstID)
	if err != nil {
		return Root{}, err
	}
	defer ids.close()
	root := Root{Path: s.Path(id), Bundle: s.Bundle(id)}
	failpoint.Here("root: no bundle")
	if err := os.MkdirAll(root.Path, 0o700); err != nil {
		return Root{}, err
	}
	if ids != nil {
		if err := s.openWay(); err != nil {
			return Root{}, err
		}
		if err := os.Chown(root.Bundle, ids.first, ids.first); err != nil {
			return Root{}, err
		}
	}
	failpoint.Here("root: a bundle")
	snapshot := s.snapshot(id)
	if err := os.MkdirAll(snapshot, 0o700); err != nil {
		return Root{}, err
	}
	failpoint.Here("root: a directory for the layer")
	upper := snapshot
	if req.Disk > 0 {
		disk, detach, err := s.mountDisk(ctx, id, req.Disk)
		if err != nil {
			return Root{}, err
		}
		defer detach()
		upper = disk
	}
	failpoint.Here("root: nothing mounted")
	if err := mountMapped(req.Layers, upper, root, ids); err != nil {
		return Root{}, err
	}
	failpoint.Here("root: mounted")
	if err := s.makeDevices(&root, req.Devices, ids); err != nil {
		return Root{}, err
	}
	for i, m := range mounts {
		if err := ctx.Err(); err != nil {
			return Root{}, err
		}
		mounted, err := s.mount(ctx, place{id: id, index: i, req: req, root: root, ids: ids}, m)
		if err != nil {
			return Root{}, err
		}
		failpoint.Here("root: one mount more")
		root.Mounts = append(root.Mounts, mounted)
	}
	return root, nil
}

// place is where one mount of a container belongs.
type place struct {
	id    runtime.ID
	index int // of the mount, names its directory
	req   Request
	root  Root
	ids   *mapper
}

// dir is a directory of the mount's own below parent.
func (p place) dir(parent, kind string) string {
	return filepath.Join(parent, kind, fmt.Sprint(p.index))
}

// filesDir is where the files of a Config are, secretDir where those of a Secret are: in memory.
func (s *Store) filesDir(p place) string { return p.dir(s.snapshot(p.id), "files") }

func secretDir(p place) string { return p.dir(p.root.Bundle, "secrets") }

func (s *Store) mount(ctx context.Context, p place, m runtime.Mount) (Mounted, error) {
	mounted := Mounted{Path: m.Path, ReadOnly: m.ReadOnly, Exec: true}
	var err error
	switch {
	case m.Volume != nil:
		mounted.Source, err = s.attachVolume(ctx, p, m)
	case m.Files != nil:
		mounted.ReadOnly = true
		dir := s.filesDir(p)
		if mounted.Source, err = layOutFiles(dir, m.Path, *m.Files); err == nil {
			err = p.ids.give(dir)
		}
	case m.Secret != nil:
		mounted.ReadOnly, mounted.Exec = true, false
		dir := secretDir(p)
		if mounted.Source, err = s.layOutSecret(dir, m.Path, *m.Secret); err == nil {
			err = p.ids.give(dir)
		}
	case m.HostPath != "":
		mounted.Source, err = s.stageHostPath(p.dir(p.root.Bundle, "host"), m, p.ids)
	default:
		mounted.Tmpfs = m.Tmpfs
	}
	return mounted, err
}

// Check says whether the mounts of a container could be set up now, without changing anything.
func (s *Store) Check(owner runtime.Name, mounts []runtime.Mount, users VolumeUsers) error {
	ordered, err := orderMounts(mounts)
	if err != nil {
		return err
	}
	for _, m := range ordered {
		switch {
		case m.Volume != nil:
			err = s.checkVolume(owner, *m.Volume, users)
		case m.Files != nil:
			err = checkFiles(m.Path, *m.Files)
		case m.Secret != nil:
			err = s.checkSecret(m.Path, *m.Secret)
		case m.HostPath != "":
			err = s.checkHostPath(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// orderMounts checks where the mounts go and sorts parents before what lies below them.
func orderMounts(mounts []runtime.Mount) ([]runtime.Mount, error) {
	ordered := slices.Clone(mounts)
	slices.SortStableFunc(ordered, func(a, b runtime.Mount) int { return strings.Compare(a.Path, b.Path) })
	for i, m := range ordered {
		if why := badTarget(m.Path); why != "" {
			return nil, permanent("mount "+m.Path, runtime.ReasonNotAllowed, fmt.Errorf("%s", why),
				"mount it on a clean absolute path that is not the kernel's")
		}
		if i > 0 && ordered[i-1].Path == m.Path {
			return nil, permanent("mount "+m.Path, runtime.ReasonNotAllowed, fmt.Errorf("two mounts on one path"), "")
		}
		if n := kinds(m); n != 1 {
			return nil, permanent("mount "+m.Path, runtime.ReasonNotAllowed,
				fmt.Errorf("%d of volume, config, secret, hostPath and tmpfs are set, not one", n), "")
		}
	}
	return ordered, nil
}

func kinds(m runtime.Mount) int {
	n := 0
	for _, set := range []bool{m.Volume != nil, m.Files != nil, m.Secret != nil, m.HostPath != "", m.Tmpfs != nil} {
		if set {
			n++
		}
	}
	return n
}

// badTarget says why nothing may be mounted on path inside a container; "" where it may.
func badTarget(path string) string {
	switch {
	case !filepath.IsAbs(path):
		return "not an absolute path"
	case filepath.Clean(path) != path:
		return "not a clean path (no .., no double or trailing slash)"
	case strings.ContainsRune(path, 0):
		return "a NUL byte in the path"
	case path == "/":
		return "the root file system is the image's"
	case path == "/dev" || path == "/dev/pts" || path == "/dev/mqueue":
		return "a file system of the container itself"
	}
	for _, kernel := range []string{"/proc", "/sys"} {
		if path == kernel || strings.HasPrefix(path, kernel+"/") {
			return "a file system of the kernel"
		}
	}
	return ""
}

// permanent is an error that only a change of the spec or of this server's configuration can cure.
func permanent(op, reason string, err error, hint string) error {
	return &runtime.Error{Op: op, Reason: reason, Err: err, Hint: hint, Permanent: true}
}
