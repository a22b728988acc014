package rootfs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"reconciler/runtime"
	"reconciler/runtime/atomicfile"
	"reconciler/runtime/failpoint"
)

// Volume is a named directory that outlives its containers.
type Volume struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Owner is the container ("namespace/name") that it belongs to; empty for a shared one.
	Owner     string    `json:"owner,omitempty"`
	Shared    bool      `json:"shared,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
	// Size is how many bytes it may hold; 0: as many as its disk has.
	Size int64 `json:"size,omitempty"`
	// Path is where its content is on this server: a directory or, of a volume with a size, an image of an ext4.
	Path string `json:"path"`
	// UsedBy are the containers ("namespace/name") that mount it now; Orphan means that there are none.
	UsedBy []string `json:"usedBy"`
	Orphan bool     `json:"orphan"`
}

// VolumeUsers returns the names of the containers that mount a volume now.
type VolumeUsers func(namespace, name string) []runtime.Name

// volumeRecord is volume.json, beside the volume's content in data/ or, of a volume with a size, in data/ of disk.img.
type volumeRecord struct {
	Version   int       `json:"version"`
	Owner     string    `json:"owner,omitempty"`
	Shared    bool      `json:"shared,omitempty"`
	Size      int64     `json:"size,omitempty"`
	CreatedAt time.Time `json:"createdAt"`
}

const volumeVersion = 1

// Errors of RemoveVolume.
var (
	ErrNoVolume  = errors.New("no such volume")
	ErrVolumeUse = errors.New("the volume is in use")
)

func (s *Store) volumesDir() string { return filepath.Join(s.opts.StateDir, "volumes") }

func (s *Store) volumeDir(namespace, name string) (string, error) {
	for _, part := range []string{namespace, name} {
		if part == "" || part[0] == '.' || strings.ContainsAny(part, "/\x00") {
			return "", fmt.Errorf("volume %s/%s: %q cannot be a directory's name", namespace, name, part)
		}
	}
	return filepath.Join(s.volumesDir(), namespace, name), nil
}

// Volumes lists the volumes, sorted by namespace and name.
func (s *Store) Volumes(users VolumeUsers) ([]Volume, error) {
	paths, err := filepath.Glob(filepath.Join(globQuote(s.volumesDir()), "*", "*", "volume.json"))
	if err != nil {
		return nil, err
	}
	volumes := make([]Volume, 0, len(paths))
	for _, path := range paths {
		dir := filepath.Dir(path)
		name, namespace := filepath.Base(dir), filepath.Base(filepath.Dir(dir))
		rec, ok, err := readVolume(dir)
		if err != nil {
			return nil, fmt.Errorf("volume %s/%s: %w", namespace, name, err)
		}
		if !ok {
			continue // removed since
		}
		v := Volume{
			Namespace: namespace, Name: name, Owner: rec.Owner, Shared: rec.Shared,
			CreatedAt: rec.CreatedAt, Size: rec.Size, Path: filepath.Join(dir, "data"), UsedBy: []string{},
		}
		if v.Size > 0 {
			v.Path = volumeImage(dir)
		}
		for _, user := range users(namespace, name) {
			v.UsedBy = append(v.UsedBy, user.String())
		}
		slices.Sort(v.UsedBy)
		v.UsedBy = slices.Compact(v.UsedBy)
		v.Orphan = len(v.UsedBy) == 0
		volumes = append(volumes, v)
	}
	return volumes, nil
}

// globQuote makes a path match itself only.
func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// RemoveVolume takes a volume away with its content. The error wraps ErrNoVolume or ErrVolumeUse.
func (s *Store) RemoveVolume(namespace, name string, users VolumeUsers) error {
	op := fmt.Sprintf("remove volume %s/%s", namespace, name)
	dir, err := s.volumeDir(namespace, name)
	if err != nil {
		return &runtime.Error{Op: op, Err: ErrNoVolume, Permanent: true}
	}
	s.volumes.Lock()
	defer s.volumes.Unlock()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		s.tidyVolumes(dir) // of a removal that was cut short
		return &runtime.Error{Op: op, Err: ErrNoVolume, Permanent: true, Hint: "`reconciler volume ls` shows them"}
	}
	if who := users(namespace, name); len(who) > 0 {
		return &runtime.Error{
			Op: op, Err: fmt.Errorf("%w by container %s", ErrVolumeUse, who[0]), Permanent: true,
			Hint: "remove the container from the repository first",
		}
	}
	failpoint.Here("remove volume: not begun")
	// It is moved away first: what is left of a removal that was cut short is no volume, and is
	// swept.
	if err := s.discard(dir); err != nil {
		return &runtime.Error{Op: op, Err: err}
	}
	failpoint.Here("remove volume: its content gone")
	s.tidyVolumes(dir)
	failpoint.Here("remove volume: done")
	return nil
}

// tidyVolumes takes away what the removal of the volume in dir leaves. The namespace's directory goes with its last volume.
func (s *Store) tidyVolumes(dir string) {
	failpoint.Here("remove volume: its namespace empty")
	_ = os.Remove(filepath.Dir(dir)) // unless there are others
	failpoint.Here("remove volume: nobody else's rest gone")
	_ = os.RemoveAll(s.removingVolumes()) // where that fails, a sweep does it
	failpoint.Here("remove volume: all rests gone")
}

// removingVolumes is where volumes go whose removal has begun; no namespace has a name like it.
func (s *Store) removingVolumes() string { return filepath.Join(s.volumesDir(), ".removing") }

func (s *Store) discard(dir string) error {
	if err := os.MkdirAll(s.removingVolumes(), 0o700); err != nil {
		return err
	}
	failpoint.Here("remove volume: no place for it")
	trash, err := os.MkdirTemp(s.removingVolumes(), "")
	if err != nil {
		return err
	}
	failpoint.Here("remove volume: a place for it")
	if err = os.Rename(dir, filepath.Join(trash, "volume")); err != nil {
		return err
	}
	failpoint.Here("remove volume: moved away")
	err = os.RemoveAll(trash)
	failpoint.Here("remove volume: gone")
	return err
}

// SweepVolumes goes on with removals that were cut short. What lacks a record only is not touched: it may be data.
func (s *Store) SweepVolumes() error {
	s.volumes.Lock()
	defer s.volumes.Unlock()
	failpoint.Here("sweep: volumes moved away there")
	err := os.RemoveAll(s.removingVolumes())
	failpoint.Here("sweep: volumes moved away gone")
	namespaces, _ := os.ReadDir(s.volumesDir()) // none: nothing to tidy
	for _, ns := range namespaces {
		_ = os.Remove(filepath.Join(s.volumesDir(), ns.Name())) // unless a volume is in it
	}
	failpoint.Here("sweep: namespaces without a volume gone")
	return err
}

func readVolume(dir string) (volumeRecord, bool, error) {
	data, err := os.ReadFile(filepath.Join(dir, "volume.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return volumeRecord{}, false, nil
	}
	if err != nil {
		return volumeRecord{}, false, err
	}
	var rec volumeRecord
	if err := json.Unmarshal(data, &rec); err != nil {
		return volumeRecord{}, false, fmt.Errorf("volume.json: %w", err)
	}
	if rec.Version != volumeVersion {
		return volumeRecord{}, false, fmt.Errorf("volume.json: version %d is not known to this release", rec.Version)
	}
	return rec, true, nil
}

// checkVolume says whether owner may mount the volume.
func (s *Store) checkVolume(owner runtime.Name, v runtime.Volume, users VolumeUsers) error {
	dir, err := s.volumeDir(owner.Namespace, v.Name)
	if err != nil {
		return permanent("mount volume "+v.Name, runtime.ReasonNotAllowed, err, "")
	}
	if v.Size > 0 {
		if err = s.CheckDisk(v.Size); err != nil {
			return err
		}
	}
	rec, ok, err := readVolume(dir)
	if err != nil {
		return &runtime.Error{Op: fmt.Sprintf("mount volume %s/%s", owner.Namespace, v.Name), Err: err}
	}
	if !ok {
		return nil
	}
	if err = mayMount(rec, owner, v, users); err != nil {
		return err
	}
	return mayResize(dir, rec, owner.Namespace, v)
}

// mayMount is the rule of ownership: a volume belongs to the container that used it first, and to no other as long as it
// is there, unless every container that mounts it says that it is shared.
func mayMount(rec volumeRecord, owner runtime.Name, v runtime.Volume, users VolumeUsers) error {
	var others []string
	for _, user := range users(owner.Namespace, v.Name) {
		if user != owner && !slices.Contains(others, user.String()) {
			others = append(others, user.String())
		}
	}
	slices.Sort(others)
	volume := owner.Namespace + "/" + v.Name
	conflict := func(why, hint string) error {
		return permanent("mount volume "+volume, runtime.ReasonVolumeConflict, errors.New(why), hint)
	}
	const share = "say `shared: true` on every mount of it"
	switch {
	case rec.Shared && v.Shared, !rec.Shared && rec.Owner == owner.String() && !v.Shared:
		return nil
	case rec.Shared: // and now for one alone
		if len(others) > 0 {
			return conflict("it is shared with container "+strings.Join(others, ", "), share)
		}
		return nil
	case rec.Owner == owner.String(): // and now shared
		return nil
	case !v.Shared:
		hint := share
		if !slices.Contains(others, rec.Owner) {
			hint = fmt.Sprintf("to take it over say `shared: true`; to start afresh `reconciler volume rm %s`", volume)
		}
		return conflict("it belongs to container "+rec.Owner, hint)
	case slices.Contains(others, rec.Owner): // shared is wanted, but not by its owner
		return conflict("it belongs to container "+rec.Owner, share)
	}
	return nil
}

// attachVolume makes a volume where it is new and returns its directory.
func (s *Store) attachVolume(ctx context.Context, p place, m runtime.Mount) (source string, err error) {
	owner, v := p.req.Owner, *m.Volume
	op := fmt.Sprintf("mount volume %s/%s on %s", owner.Namespace, v.Name, m.Path)
	dir, err := s.volumeDir(owner.Namespace, v.Name)
	if err != nil {
		return "", permanent(op, runtime.ReasonNotAllowed, err, "")
	}
	s.volumes.Lock()
	defer s.volumes.Unlock()
	rec, ok, err := readVolume(dir)
	if err != nil {
		return "", &runtime.Error{Op: op, Err: err}
	}
	if ok {
		if err := errors.Join(mayMount(rec, owner, v, p.req.Users), mayResize(dir, rec, owner.Namespace, v)); err != nil {
			return "", err
		}
	} else if err := os.RemoveAll(dir); err != nil { // of a removal that was cut short; no failpoint: it is cut short again
		return "", &runtime.Error{Op: op, Err: err}
	}
	want := volumeRecord{Version: volumeVersion, Shared: v.Shared, Size: rec.Size, CreatedAt: rec.CreatedAt}
	if !v.Shared {
		want.Owner = owner.String()
	}
	if !ok {
		want.Size, want.CreatedAt = v.Size, time.Now().UTC()
	}
	if err := atomicfile.Sweep(dir, 0); err != nil { // written by us alone
		return "", &runtime.Error{Op: op, Err: err}
	}
	if !ok || want != rec {
		failpoint.Here("volume: not recorded")
		if err := writeVolume(dir, want); err != nil {
			return "", &runtime.Error{Op: op, Err: err}
		}
	}
	failpoint.Here("volume: recorded")
	data := filepath.Join(dir, "data")
	if v.Size > 0 {
		disk := p.dir(p.root.Bundle, "disks")
		if err := mountVolume(ctx, dir, disk, want, v.Size); err != nil {
			return "", diskError(op, err, "lower the volume's size")
		}
		// The copy that the container gets keeps the file system mounted.
		defer detachMount(disk)
		data = filepath.Join(disk, "data")
	}
	if _, err := os.Lstat(data); err != nil {
		failpoint.Here("volume: without content")
		err = s.imageFiles(p, func(root string) error { return fillVolume(root, m.Path, data) })
		if err != nil {
			return "", &runtime.Error{Op: op, Err: err}
		}
	}
	failpoint.Here("volume: with content")
	if p.ids == nil && v.Size == 0 {
		return data, nil
	}
	stage := p.dir(p.root.Bundle, "volumes")
	failpoint.Here("volume: not attached")
	if err := p.ids.attach(data, stage); err != nil {
		return "", &runtime.Error{Op: op, Err: err}
	}
	failpoint.Here("volume: attached")
	return stage, nil
}

// imageFiles calls fn with a directory that has the image's files with the ids that they have in the image: a volume keeps
// those, whatever range its container has today.
func (s *Store) imageFiles(p place, fn func(root string) error) (err error) {
	if p.ids == nil || len(p.req.Layers) == 0 {
		return fn(p.root.Path)
	}
	target, snapshot := filepath.Join(p.root.Bundle, "image"), filepath.Join(s.snapshot(p.id), "image")
	failpoint.Here("volume: the image not in sight") // apart: for a volume that begins with the files of an image
	if err = errors.Join(os.MkdirAll(target, 0o700), os.MkdirAll(snapshot, 0o700)); err != nil {
		return err
	}
	if err = mountOverlay(p.req.Layers, snapshot, target); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount(target), os.RemoveAll(snapshot)) }()
	failpoint.Here("volume: the image in sight") // apart: for a volume that begins with the files of an image
	return fn(target)
}

func writeVolume(dir string, rec volumeRecord) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	return atomicfile.WriteDurable(filepath.Join(dir, "volume.json"), data, 0o600)
}
