package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"reconciler/runtime"
)

// resolved is the manifest that a reference leads to on one platform.
type resolved struct {
	digest    v1.Hash
	mediaType types.MediaType
	manifest  []byte
}

// resolve finds the manifest for ref, or for digest if that is not empty, and returns it together with the places its
// blobs may come from: the one that knew the manifest first, then the others.
func (s *Store) resolve(ctx context.Context, ref name.Reference, digest string, want runtime.Platform) (*source, resolved, error) {
	endpoints, err := s.endpoints(ref)
	if err != nil {
		return nil, resolved{}, err
	}
	var errs []error
	for i, e := range endpoints {
		sess, err := s.open(ctx, e)
		var found resolved
		if err == nil {
			if found, err = sess.resolve(ctx, digest, want); err == nil {
				return &source{s: s, endpoints: endpoints[i:], sessions: []*session{sess}}, found, nil
			}
			sess.done()
		}
		if ctx.Err() != nil {
			return nil, resolved{}, context.Cause(ctx)
		}
		s.log.Debug("registry has not what is wanted", "registry", e.String(), "image", display(ref), "error", err)
		errs = append(errs, err)
	}
	if len(errs) > 1 {
		// The registry's own answer comes first: it tells more than that of a mirror, which may just not have it.
		slices.Reverse(errs)
		return nil, resolved{}, fmt.Errorf("%w (and from its mirror %s: %w)", errs[0], endpoints[0], errs[1])
	}
	return nil, resolved{}, errs[0]
}

// maxIndexes is how deep indexes may be nested.
const maxIndexes = 4

// resolve follows indexes to the manifest for a platform.
func (sess *session) resolve(ctx context.Context, digest string, want runtime.Platform) (resolved, error) {
	ref := sess.ref
	if digest != "" {
		ref = ref.Context().Digest(digest)
	}
	for range maxIndexes {
		desc, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(sess.rt))
		if err != nil {
			return resolved{}, sess.explain(err)
		}
		mediaType := typeOf(desc)
		switch {
		case mediaType.IsImage():
			return resolved{desc.Digest, mediaType, desc.Manifest}, nil
		case mediaType.IsIndex():
			index, err := v1.ParseIndexManifest(bytes.NewReader(desc.Manifest))
			if err != nil {
				return resolved{}, badImage("its index is not valid: %s", clip(err.Error()))
			}
			chosen, err := choose(index, want)
			if err != nil {
				return resolved{}, err
			}
			ref = ref.Context().Digest(chosen.Digest.String())
		case mediaType.IsSchema1():
			return resolved{}, badImage("its manifest is of docker's schema 1, which registries gave up: push it again with a newer tool")
		case !json.Valid(desc.Manifest): // of whoever answers in the registry's place, such as a proxy
			return resolved{}, fmt.Errorf("the answer is no manifest, but of type %q", clip(string(mediaType)))
		default:
			return resolved{}, badImage("it is not a container image: its manifest is of type %q", clip(string(mediaType)))
		}
	}
	return resolved{}, badImage("its indexes are nested too deep")
}

// typeOf is what the registry says of a manifest, or what that says of itself where the registry says nothing useful.
func typeOf(d *remote.Descriptor) types.MediaType {
	if d.MediaType.IsImage() || d.MediaType.IsIndex() || d.MediaType.IsSchema1() {
		return d.MediaType
	}
	if m, err := v1.ParseManifest(bytes.NewReader(d.Manifest)); err == nil && m.MediaType != "" {
		return m.MediaType
	}
	return d.MediaType
}
