package linux

import (
	"context"
	"fmt"

	"reconciler/runtime"
	"reconciler/runtime/image"
	"reconciler/runtime/rootfs"
)

// Volumes lists the volumes of this instance, sorted by namespace and name. Those that no container mounts are orphans.
func (r *Runtime) Volumes(ctx context.Context) ([]rootfs.Volume, error) {
	const op = "list volumes"
	if err := ctx.Err(); err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	users, err := r.volumeUsers()
	if err != nil {
		return nil, failure(op, "", runtime.Name{}, err)
	}
	volumes, err := r.roots.Volumes(users)
	return volumes, failure(op, "", runtime.Name{}, err)
}

// RemoveVolume takes away a volume and its content. One that a container mounts is refused. The error wraps
// rootfs.ErrNoVolume or rootfs.ErrVolumeUse.
func (r *Runtime) RemoveVolume(ctx context.Context, namespace, name string) error {
	op := fmt.Sprintf("remove volume %s/%s", namespace, name)
	if err := ctx.Err(); err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	entries, err := r.entries("")
	if err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	for _, e := range entries {
		if err = e.damaged(); err != nil { // it may have the volume mounted
			return failure(op, e.ID, e.Spec.Name, err)
		}
	}
	users, err := r.volumeUsers()
	if err != nil {
		return failure(op, "", runtime.Name{}, err)
	}
	return failure(op, "", runtime.Name{}, r.roots.RemoveVolume(namespace, name, users))
}

// Resolve asks the registry what the image's reference means now, without downloading it.
func (r *Runtime) Resolve(ctx context.Context, img runtime.Image, platform *runtime.Platform) (string, error) {
	digest, err := r.images.Resolve(ctx, img.Ref, platform)
	return digest, failure("look up image "+img.Ref, "", runtime.Name{}, err)
}

// CollectImages takes away images that no container needs and that are not in keep (digests), the least recently used
// first, if more than high percent of the disk is in use, until no more than low percent is.
func (r *Runtime) CollectImages(ctx context.Context, keep []string, high, low int) (image.Pruned, error) {
	const op = "collect images"
	keep, err := r.needed(keep)
	if err != nil {
		return image.Pruned{}, failure(op, "", runtime.Name{}, err)
	}
	pruned, err := r.images.Collect(ctx, keep, high, low)
	return pruned, failure(op, "", runtime.Name{}, err)
}

// PruneImages takes away every image that no container needs and that is not in keep (digests).
func (r *Runtime) PruneImages(ctx context.Context, keep []string) (image.Pruned, error) {
	const op = "prune images"
	keep, err := r.needed(keep)
	if err != nil {
		return image.Pruned{}, failure(op, "", runtime.Name{}, err)
	}
	pruned, err := r.images.Prune(ctx, keep)
	return pruned, failure(op, "", runtime.Name{}, err)
}

// needed adds the images of containers to those that are to be kept.
func (r *Runtime) needed(keep []string) ([]string, error) {
	entries, err := r.entries("")
	if err != nil {
		return nil, err
	}
	all := append([]string(nil), keep...)
	for _, e := range entries {
		if err := e.damaged(); err != nil { // its image cannot be known: rather collect nothing
			return nil, err
		}
		all = append(all, e.ImageDigest)
		for _, digest := range e.InitDigests {
			all = append(all, digest)
		}
	}
	return all, nil
}
