package image

import (
	"io/fs"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"reconciler/runtime"
)

// Config is what an image says about how it wants to be run: Env, User, WorkingDir, Entrypoint, Cmd, StopSignal,
// Volumes and more. Its JSON is that of the OCI image configuration.
type Config = v1.Config

// Image is one image of the store, ready to be run.
type Image struct {
	// Ref is the name it was asked for by, in full, such as "docker.io/library/nginx:1.27". Empty for an image that
	// is known by its digest only. A captured image is called "capture:" and its key.
	Ref string `json:"ref"`
	// Digest is that of the platform's manifest, "sha256:…".
	Digest   string           `json:"digest"`
	Config   Config           `json:"config"`
	Platform runtime.Platform `json:"platform"`
	// Layers are absolute directories, ready as lower directories of an overlay, the top one first.
	Layers []string `json:"layers"`
	// Size is that of the blobs in bytes, as they are kept (compressed, mostly).
	Size int64 `json:"size"`
	// Unpacked is the size of the unpacked layers in bytes. Layers may be shared with other images.
	Unpacked int64 `json:"unpacked"`
	// Warnings tell what of the image is not used, such as kernels and device nodes that were left out.
	Warnings []string  `json:"warnings,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	// LastUsed is when the image was last asked for.
	LastUsed time.Time `json:"lastUsed"`
}

// Request says what Ensure shall bring.
type Request struct {
	// Name is the container it is for. It is given back in Progress.
	Name runtime.Name
	// Ref and Digest are those of runtime.Image.
	Ref, Digest string
	// Policy is empty for runtime.PullIfNotPresent.
	Policy runtime.PullPolicy
	// Platform is nil for the store's.
	Platform *runtime.Platform
	// Tree holds the files that oci:, oci-archive: and docker-archive: are relative to.
	Tree fs.FS
	// Progress may be nil. It is called from several goroutines and must not block.
	Progress func(runtime.Progress)
}

// Pruned is what Prune, Collect and Remove took away.
type Pruned struct {
	Images []Image `json:"images"` // without those whose content stays because of another name
	Layers int     `json:"layers"` // unpacked layers
	Blobs  int     `json:"blobs"`
	Bytes  int64   `json:"bytes"` // of blobs and unpacked layers
}
