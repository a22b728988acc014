package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"reconciler/runtime"
	"reconciler/runtime/failpoint"
)

// Swap gives a container that runs the present content of the mounts which are in swapped, out of mounts, those that it was
// set up with. Each directory changes at once: a reader finds what was there before or what is there now, and whoever
// opened the old directory still finds all of it until the next Swap. FirstID is as in Request. After an error some mounts
// may be swapped and others not; it may be called again.
func (s *Store) Swap(id runtime.ID, mounts, swapped []runtime.Mount, firstID uint32) error {
	ordered, err := orderMounts(mounts)
	if err != nil {
		return err
	}
	root := Root{Path: s.Path(id), Bundle: s.Bundle(id)}
	for i, m := range ordered {
		if !slices.ContainsFunc(swapped, func(o runtime.Mount) bool { return o.Path == m.Path }) {
			continue
		}
		if err := s.swap(place{id: id, index: i, root: root}, m, int(firstID)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) swap(p place, m runtime.Mount, owner int) error {
	switch {
	case m.Files != nil && m.Files.Key == "":
		if err := checkFiles(m.Path, *m.Files); err != nil {
			return err
		}
		return swapFiles(s.filesDir(p), m.Files.Mode, m.Files.Content, owner)
	case m.Secret != nil && m.Secret.Key == "":
		content, err := s.readSecret("mount secret "+m.Secret.Name+" on "+m.Path, m.Secret.Directory, "")
		if err != nil {
			return err
		}
		return swapFiles(secretDir(p), m.Secret.Mode, content, owner)
	}
	return fmt.Errorf("mount %s: not a directory of files that can be swapped", m.Path)
}

// swapFiles replaces the content of a directory that layOut made, in the order of Kubernetes' AtomicWriter: the new files
// are there before the link that leads to them is replaced, then come the links of new keys, and those of old ones go.
func swapFiles(dir string, mode fs.FileMode, content map[string][]byte, owner int) error {
	now, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(now, ".."))
	if err != nil {
		return fmt.Errorf("%s leads to %q, which is none of ours", filepath.Join(dir, dataLink), now)
	}
	next := generation(n + 1)
	// The one before the present, and what a Swap that was cut short has left.
	failpoint.Here("swap: not begun")
	if err := removeGenerations(dir, now); err != nil {
		return err
	}
	failpoint.Here("swap: nothing old there")
	if err := writeGeneration(filepath.Join(dir, next), mode, content); err != nil {
		return err
	}
	if err := give(filepath.Join(dir, next), owner); err != nil {
		return err
	}
	failpoint.Here("swap: the new files beside")
	if err := relink(next, filepath.Join(dir, dataLink), owner); err != nil {
		return err
	}
	failpoint.Here("swap: the new files seen, keys not linked")
	return linkKeys(dir, content, owner)
}

// removeGenerations takes away what of the layout is in dir, but the generation keep and the link to it.
func removeGenerations(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasPrefix(name, "..") && name != keep && name != dataLink {
			failpoint.Here("swap: an old generation there")
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
			failpoint.Here("swap: an old generation gone")
		}
	}
	return nil
}

// relink makes the link at path lead to target, at once.
func relink(target, path string, owner int) error {
	tmp := filepath.Join(filepath.Dir(path), dataLink+"_tmp")
	failpoint.Here("swap: no link beside")
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Lchown(tmp, owner, owner); err != nil {
		return err
	}
	failpoint.Here("swap: a link beside")
	err := os.Rename(tmp, path)
	failpoint.Here("swap: a link in place")
	return err
}

// linkKeys makes the keys of content, and no others, be seen in dir.
func linkKeys(dir string, content map[string][]byte, owner int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(entries))
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink && e.Name() != dataLink {
			seen[e.Name()] = true
		}
	}
	for name := range content {
		if seen[name] {
			continue
		}
		if err := relink(filepath.Join(dataLink, name), filepath.Join(dir, name), owner); err != nil {
			return err
		}
	}
	for name := range seen {
		if _, ok := content[name]; ok {
			continue
		}
		failpoint.Here("swap: an old key there")
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
		failpoint.Here("swap: an old key gone")
	}
	return nil
}
