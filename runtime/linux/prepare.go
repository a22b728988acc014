package linux

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
	"reconciler/runtime/supervisor"
)

// Prepare implements runtime.Runtime.
func (r *Runtime) Prepare(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (runtime.Prepared, error) {
	op := "prepare container " + spec.Name.String()
	defer r.rest.Worked()
	if err := ctx.Err(); err != nil {
		return runtime.Prepared{}, failure(op, "", spec.Name, err)
	}
	if err := claim(r.cfg); err != nil {
		return runtime.Prepared{}, failure(op, "", spec.Name, err)
	}
	// What needs no download is refused first.
	all := []runtime.Spec{spec}
	for _, ic := range spec.InitContainers {
		all = append(all, spec.ForInit(ic))
	}
	var varWarnings []string
	for i, one := range all {
		vars, err := r.checkSpec(one)
		if err != nil {
			return runtime.Prepared{}, failure(op, "", spec.Name, ofInit(spec, i, err))
		}
		if i == 0 {
			varWarnings = vars.warnings
		}
	}
	whole, err := r.bring(ctx, spec, in)
	if err != nil {
		return runtime.Prepared{}, failure(op, "", spec.Name, err)
	}
	for i, one := range all {
		img := whole
		if i > 0 && spec.InitContainers[i-1].Image != nil {
			img, err = r.bring(ctx, one, in)
		}
		if err == nil {
			err = r.checkProcess(one, img)
		}
		if err != nil {
			return runtime.Prepared{}, failure(op, "", spec.Name, ofInit(spec, i, err))
		}
	}
	return runtime.Prepared{ImageDigest: whole.Digest, Warnings: append(warnings(whole), varWarnings...)}, nil
}

// ofInit says of which init container an error is: all but the first of what is checked are.
func ofInit(spec runtime.Spec, i int, err error) error {
	if i == 0 {
		return err
	}
	return fmt.Errorf("init container %s: %w", spec.InitContainers[i-1].Name, err)
}

// checkSpec says whether this server can and may run a spec, as far as that can be told without its image.
func (r *Runtime) checkSpec(spec runtime.Spec) (variables, error) {
	users, err := r.usersOfVolumes(spec)
	if err != nil {
		return variables{}, err
	}
	if err = r.roots.Check(spec.Name.Base(), spec.Mounts, users); err != nil {
		return variables{}, err
	}
	if spec.Limits.Disk > 0 {
		if err = r.roots.CheckDisk(spec.Limits.Disk); err != nil {
			return variables{}, err
		}
	}
	if err = r.checkPrivileges(spec); err != nil {
		return variables{}, err
	}
	if err = r.checkIDs(spec); err != nil {
		return variables{}, err
	}
	return r.variables(spec)
}

// bring makes sure that the spec's image is on this server.
func (r *Runtime) bring(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (image.Image, error) {
	switch {
	case spec.Image == nil && len(spec.Capture) == 0:
		return image.Image{}, &runtime.Error{
			Op: "prepare container " + spec.Name.String(), Err: errors.New("neither an image nor a capture is named"),
			Reason: runtime.ReasonInvalidImage, Permanent: true,
		}
	case spec.Image == nil:
		key, err := captureKey(spec)
		if err != nil {
			return image.Image{}, err
		}
		return r.images.Capture(ctx, spec.Capture, key)
	}
	return r.images.Ensure(ctx, image.Request{
		Name: spec.Name, Ref: spec.Image.Ref, Digest: spec.Image.Digest, Policy: spec.Image.PullPolicy,
		Platform: spec.Platform, Tree: in.Tree, Progress: in.Progress,
	})
}

// captureKey identifies what is captured: the files are taken once for each digest of the spec.
func captureKey(spec runtime.Spec) (string, error) {
	data, err := json.Marshal(struct {
		Origin string
		Paths  []runtime.Path
	}{spec.OriginDigest, spec.Capture})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// prepared finds the image of a spec that was prepared, in the store alone.
func (r *Runtime) prepared(ctx context.Context, spec runtime.Spec) (image.Image, error) {
	var ref, digest string
	if spec.Image != nil {
		ref, digest = spec.Image.Ref, spec.Image.Digest
	} else {
		key, err := captureKey(spec)
		if err != nil {
			return image.Image{}, err
		}
		ref = "capture:" + key
	}
	return r.stored(ctx, ref, digest, spec.Platform)
}

// imageOf finds the image that a container was made from.
func (r *Runtime) imageOf(ctx context.Context, e entry) (image.Image, error) {
	ref := ""
	if e.Spec.Image != nil {
		ref = e.Spec.Image.Ref
	}
	return r.stored(ctx, ref, e.ImageDigest, e.Spec.Platform)
}

func (r *Runtime) stored(ctx context.Context, ref, digest string, platform *runtime.Platform) (image.Image, error) {
	img, ok, err := r.images.Restore(ctx, ref, digest, platform)
	if err != nil {
		return image.Image{}, err
	}
	if !ok {
		what := ref
		if what == "" {
			what = digest
		}
		return image.Image{}, &runtime.Error{
			Op: "find image " + what, Err: image.ErrNotFound, Reason: runtime.ReasonErrImagePull,
			Hint: "it was removed from this server: `reconciler image pull` brings it back",
		}
	}
	return img, nil
}

// checkProcess says whether process 1 could be what the spec wants: the command is there and executable, the user and
// the capabilities exist.
func (r *Runtime) checkProcess(spec runtime.Spec, img image.Image) error {
	op := "check the command of " + spec.Name.String()
	permanent := func(op string, err error, hint string) error {
		return &runtime.Error{Op: op, Err: err, Permanent: true, Hint: hint}
	}
	if !spec.Security.SeccompUnconfined && !supervisor.Seccomp() {
		return permanent("confine "+spec.Name.String(), errors.New("this binary was built without seccomp"),
			"use a build with the tag seccomp, or say `seccompProfile: {type: Unconfined}`")
	}
	args := command(spec, img.Config)
	if len(args) == 0 {
		return permanent(op, errNoCommand, "say what to run with command")
	}
	var pathVar string
	for _, kv := range environment(spec, img.Config, "") {
		if value, ok := strings.CutPrefix(kv, "PATH="); ok {
			pathVar = value
		}
	}
	cwd := workingDir(spec, img.Config)
	if _, err := img.LookPath(args[0], pathVar, cwd); err != nil && !underMount(spec, args[0], cwd, pathVar) {
		return permanent(op, err, "check command and the image, or mount what is missing")
	}
	user, err := img.LookUser(userSpec(spec.Security, img.Config))
	if err != nil {
		return permanent("check the user of "+spec.Name.String(), err, "name a user that the image has, or a number")
	}
	if _, err := capabilities(spec.Security, user.UID, r.host.Caps); err != nil {
		return permanent("check the capabilities of "+spec.Name.String(), err, "leave it out of capabilities.add")
	}
	return nil
}

// underMount says whether a command may come from a mount, whose content nobody knows yet.
func underMount(spec runtime.Spec, word, cwd, pathVar string) bool {
	var places []string
	switch {
	case strings.HasPrefix(word, "/"):
		places = []string{path.Clean(word)}
	case strings.Contains(word, "/"):
		places = []string{path.Join(cwd, word)}
	default:
		for dir := range strings.SplitSeq(pathVar, ":") {
			places = append(places, path.Join("/", dir, word))
		}
	}
	return slices.ContainsFunc(places, func(place string) bool {
		return slices.ContainsFunc(spec.Mounts, func(m runtime.Mount) bool {
			return place == m.Path || strings.HasPrefix(place, m.Path+"/")
		})
	})
}

// warnings are those of the image and the VOLUMEs that it names and does not get.
func warnings(img image.Image) []string {
	out := slices.Clone(img.Warnings)
	for _, path := range slices.Sorted(maps.Keys(img.Config.Volumes)) {
		out = append(out, fmt.Sprintf("the image's VOLUME %s is ignored: what is written there goes with the container; mount a volume to keep it", path))
	}
	return out
}

// usersOfVolumes is volumeUsers for a container; one without volumes need not ask every other.
func (r *Runtime) usersOfVolumes(spec runtime.Spec) (rootfs.VolumeUsers, error) {
	if !slices.ContainsFunc(spec.Mounts, func(m runtime.Mount) bool { return m.Volume != nil }) {
		return func(string, string) []runtime.Name { return nil }, nil
	}
	return r.volumeUsers()
}

// volumeUsers tells who mounts a volume, of the containers that there are now.
func (r *Runtime) volumeUsers() (rootfs.VolumeUsers, error) {
	entries, err := r.entries("")
	if err != nil {
		return nil, err
	}
	users := map[string][]runtime.Name{}
	for _, e := range entries {
		mounts := e.Spec.Mounts
		for _, ic := range e.Spec.InitContainers {
			mounts = append(slices.Clip(mounts), ic.Mounts...)
		}
		for _, m := range mounts {
			if m.Volume != nil {
				key := e.Spec.Name.Namespace + "/" + m.Volume.Name
				users[key] = append(users[key], e.Spec.Name.Base())
			}
		}
	}
	return func(namespace, name string) []runtime.Name { return users[namespace+"/"+name] }, nil
}
