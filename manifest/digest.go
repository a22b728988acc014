package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// digesters is how many digests are made at a time.
const digesters = 4

// digestAll gives those of list their digests that fresh names.
func digestAll(list []Workload, fresh []int) {
	done := make(chan struct{})
	for k := range digesters {
		go func() {
			for _, i := range fresh[len(fresh)*k/digesters : len(fresh)*(k+1)/digesters] {
				list[i].Digest = list[i].digest()
			}
			done <- struct{}{}
		}()
	}
	for range digesters {
		<-done
	}
}

// digest identifies w. Content of Configs goes in as digests of its own, so that a large one is not copied.
func (w Workload) digest() string {
	w.Source, w.Digest = Position{}, ""
	contents := make(map[string]map[string]string, len(w.Configs))
	for name, files := range w.Configs {
		contents[name] = make(map[string]string, len(files))
		for key, b := range files {
			contents[name][key] = contentDigest(b)
		}
	}
	w.Configs = nil
	// encoding/json sorts the keys of maps and keeps the order of fields: this is canonical.
	b, err := json.Marshal(struct {
		Workload
		Contents map[string]map[string]string `json:"contents,omitempty"`
	}{w, contents})
	if err != nil {
		// Nothing in a Workload can fail to marshal; were it to, no two workloads may look equal.
		b = []byte(w.Name.String() + err.Error())
	}
	return contentDigest(b)
}

func contentDigest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}
