package image

import (
	"bytes"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"reconciler/runtime"
)

// HostPlatform is what this server runs.
func HostPlatform() runtime.Platform {
	p := runtime.Platform{OS: "linux", Architecture: goruntime.GOARCH}
	if p.Architecture == "arm" {
		p.Variant = armVariant()
	}
	return p
}

// armVariant tells from uname what a 32-bit ARM machine can run: v5, v6 or v7.
func armVariant() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "v6"
	}
	machine, _, _ := bytes.Cut(u.Machine[:], []byte{0})
	for _, v := range []string{"v5", "v6"} {
		if bytes.HasPrefix(machine, []byte("arm"+v)) {
			return v
		}
	}
	return "v7"
}

// normal gives a platform the words of GOOS and GOARCH, which OCI demands and older tools do not always write.
func normal(p runtime.Platform) runtime.Platform {
	p.OS, p.Architecture, p.Variant = strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	if p.OS == "" {
		p.OS = "linux"
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	}
	return p
}

func fromV1(p *v1.Platform) runtime.Platform {
	if p == nil {
		return runtime.Platform{}
	}
	return normal(runtime.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
}

func toV1(p runtime.Platform) *v1.Platform {
	return &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// level orders the variants of one architecture: each runs what those below it run.
func level(p runtime.Platform) int {
	if n, err := strconv.Atoi(strings.TrimPrefix(p.Variant, "v")); err == nil {
		return n
	}
	switch p.Architecture {
	case "arm":
		return 7
	case "arm64":
		return 8
	default:
		return 1
	}
}

// runs reports whether a machine that is want runs programs made for have.
func runs(want, have runtime.Platform) bool {
	return want.OS == have.OS && want.Architecture == have.Architecture && level(have) <= level(want)
}

func platformString(p runtime.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// errPlatform is wrapped by the error for an image that is made for other machines.
var errPlatform = errors.New("made for another platform")

// choose returns the best of an index's images for want.
func choose(index *v1.IndexManifest, want runtime.Platform) (v1.Descriptor, error) {
	best, found := v1.Descriptor{}, false
	var offered []string
	for _, d := range index.Manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		if d.Platform == nil {
			// Layouts written by simple tools name no platform: the only image there is must be meant, and its
			// configuration is checked later.
			if len(index.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		have := fromV1(d.Platform)
		if have.OS == "unknown" || have.Architecture == "unknown" {
			continue // a build attestation, not an image
		}
		offered = append(offered, platformString(have))
		if runs(want, have) && (!found || level(have) > level(fromV1(best.Platform))) {
			best, found = d, true
		}
	}
	if found {
		return best, nil
	}
	slices.Sort(offered)
	offered = slices.Compact(offered)
	if len(offered) == 0 {
		return v1.Descriptor{}, fmt.Errorf("%w: %s is wanted, and the index names no image with a platform", errPlatform, platformString(want))
	}
	return v1.Descriptor{}, fmt.Errorf("%w: %s is wanted, there is %s", errPlatform, platformString(want), strings.Join(offered, ", "))
}

// checkPlatform returns an error if an image's configuration is for another platform than want.
func checkPlatform(cfg *v1.ConfigFile, want runtime.Platform) error {
	have := normal(runtime.Platform{OS: cfg.OS, Architecture: cfg.Architecture, Variant: cfg.Variant})
	if cfg.Architecture == "" || runs(want, have) {
		return nil
	}
	return fmt.Errorf("%w: %s is wanted, the image is for %s", errPlatform, platformString(want), platformString(have))
}
