package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

func sorted(s []string) []string {
	slices.Sort(s)
	return s
}

func emptyIndex() v1.ImageIndex { return empty.Index }

// validateImage reads every layer as another tool would and checks its digests.
func validateImage(img v1.Image) error {
	cfg, err := img.ConfigFile()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for i, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			return err
		}
		h, _, err := v1.SHA256(r)
		if err != nil {
			return err
		}
		if h != cfg.RootFS.DiffIDs[i] {
			return fmt.Errorf("layer %d has another digest", i)
		}
	}
	return nil
}

// unpackDir unpacks an archive to a directory.
func unpackDir(s *Store, archive []byte, dir string) (string, layerRecord, error) {
	r, err := s.unpack(context.Background(), bytes.NewReader(archive), dir, nil)
	return dir, r, err
}
