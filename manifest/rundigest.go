package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
)

// RunDigest identifies what of w makes its run another one: everything but what a running container takes over without
// being touched. A Job that has run need not run again for a label or a longer ttl.
func RunDigest(w Workload) (string, error) {
	spec, err := json.Marshal(w.Spec)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", w.Name.Short(), err)
	}
	var fields any
	if err = json.Unmarshal(spec, &fields); err != nil {
		return "", fmt.Errorf("digest of %s: %w", w.Name.Short(), err)
	}
	w.Labels, w.Annotations, w.Source, w.Digest, w.Spec = nil, nil, Position{}, "", Spec{}
	all, err := json.Marshal([]any{w, withoutTakenOver(Classes(), "", fields)})
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", w.Name.Short(), err)
	}
	sum := sha256.Sum256(all)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// withoutTakenOver drops what is taken over of the JSON of a spec. field is its path without indexes and keys.
func withoutTakenOver(table map[string]Class, field string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			path := strings.TrimPrefix(field+"."+key, ".")
			left := withoutTakenOver(table, path, inner)
			if m, ok := left.(map[string]any); classOf(table, path) == ClassTakeOver || ok && len(m) == 0 {
				delete(v, key)
			} else {
				v[key] = left
			}
		}
	case []any:
		for i := range v {
			v[i] = withoutTakenOver(table, field, v[i])
		}
	}
	return v
}
