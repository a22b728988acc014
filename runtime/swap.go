package runtime

import (
	"bytes"
	"maps"
	"slices"
)

// Swapped returns the mounts whose files are others in spec than in s: whole directories, of which SecretDigests or the
// content itself says so. Nothing else of mounts can change without a new process.
func (s Spec) Swapped(spec Spec) []Mount {
	before := make(map[string]Mount, len(s.Mounts))
	for _, m := range s.Mounts {
		before[m.Path] = m
	}
	var swapped []Mount
	for _, m := range spec.Mounts {
		old := before[m.Path]
		switch {
		case m.Files != nil && old.Files != nil && m.Files.Key == "":
			if !maps.EqualFunc(old.Files.Content, m.Files.Content, bytes.Equal) {
				swapped = append(swapped, m)
			}
		case m.Secret != nil && old.Secret != nil && m.Secret.Key == "":
			was, is := s.SecretDigests[m.Secret.Directory], spec.SecretDigests[m.Secret.Directory]
			if was != "" && is != "" && was != is {
				swapped = append(swapped, m)
			}
		}
	}
	return swapped
}

// Signals returns the signals that the swapped mounts ask for, each once, sorted.
func Signals(swapped []Mount) []string {
	var signals []string
	for _, m := range swapped {
		switch {
		case m.Files != nil && m.Files.Signal != "":
			signals = append(signals, m.Files.Signal)
		case m.Secret != nil && m.Secret.Signal != "":
			signals = append(signals, m.Secret.Signal)
		}
	}
	slices.Sort(signals)
	return slices.Compact(signals)
}
