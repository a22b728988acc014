package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile/plan"
	"reconciler/runtime"
)

// stateVersion is the version of state.json that this release writes and the highest that it reads.
const stateVersion = 1

// maxApproved bounds how many approvals are kept; the oldest go first.
const maxApproved = 64

// State is what must outlive the process and the server's next boot. It is a value: Save keeps no reference to its maps,
// and the sets are never written.
type State struct {
	// Accepted is the set in force; LastGood the last one that converged with every container as it should be. They are
	// kept whole, so that crashes and drift are repaired from them without the repository.
	Accepted *manifest.Set
	LastGood *manifest.Set
	// AcceptedRevision stays known where the file of the accepted set was damaged.
	AcceptedRevision manifest.Revision
	// Applied is the last revision whose every step was done; AppliedAt is when that was.
	Applied   manifest.Revision
	AppliedAt time.Time
	// Rejected is the last revision that could not be used, with the reason; zero once a later one could.
	Rejected Rejection
	// Approved are commits that somebody let through, oldest first.
	Approved  []string
	Suspended bool
	// Down means that everything was taken down: nothing is started until syncing is resumed.
	Down bool
	// Node is the node name kept at first start.
	Node      string
	Histories map[manifest.Name]plan.History
	// Health is what the probes last said of the containers that ran: whether they were started and ready.
	Health map[runtime.ID]plan.Health
	// Ledger is what is remembered of Jobs and CronJobs.
	Ledger plan.Ledger
	// ImageDigests are what references with imagePullPolicy Always were last resolved to.
	ImageDigests map[string]string
	// Images are the digests that the last good generation ran with, PreviousImages those of the one before: what a
	// revert needs is not collected as unused.
	Images         []string
	PreviousImages []string
}

// NeededImages returns the digests that the last good generation, the one before and the references that are looked up
// again stand for, sorted: what a revert needs is not unused.
func (s State) NeededImages() []string {
	all := slices.Concat(s.Images, s.PreviousImages, slices.Collect(maps.Values(s.ImageDigests)))
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(digest string) bool { return digest == "" })
}

// Rejection is a commit that could not be used.
type Rejection struct {
	Revision manifest.Revision `json:"revision,omitzero"`
	Message  string            `json:"message,omitempty"`
}

// stateFile is state.json: an envelope with a checksum around the body.
type stateFile struct {
	Version int             `json:"version"`
	Sum     string          `json:"sum"` // CRC-32C of State, in hexadecimal
	State   json.RawMessage `json:"state"`
}

type stateBody struct {
	Accepted         string                         `json:"accepted,omitempty"` // digest of the set's file
	LastGood         string                         `json:"lastGood,omitempty"`
	AcceptedRevision manifest.Revision              `json:"acceptedRevision,omitzero"`
	Applied          manifest.Revision              `json:"applied,omitzero"`
	AppliedAt        time.Time                      `json:"appliedAt,omitzero"`
	Rejected         Rejection                      `json:"rejected,omitzero"`
	Approved         []string                       `json:"approved,omitempty"`
	Suspended        bool                           `json:"suspended,omitempty"`
	Down             bool                           `json:"down,omitempty"`
	Node             string                         `json:"node,omitempty"`
	Histories        map[manifest.Name]plan.History `json:"histories,omitempty"`
	Health           map[runtime.ID]plan.Health     `json:"health,omitempty"`
	Ledger           plan.Ledger                    `json:"ledger,omitzero"`
	ImageDigests     map[string]string              `json:"imageDigests,omitempty"`
	Images           []string                       `json:"images,omitempty"`
	PreviousImages   []string                       `json:"previousImages,omitempty"`
}

// body returns what of s is in state.json, but for the digests of its sets.
func (s State) body() stateBody {
	b := stateBody{
		AcceptedRevision: s.AcceptedRevision, Applied: s.Applied, AppliedAt: s.AppliedAt, Rejected: s.Rejected, Approved: s.Approved,
		Suspended: s.Suspended, Down: s.Down, Node: s.Node, Histories: s.Histories, Health: s.Health, Ledger: s.Ledger, ImageDigests: s.ImageDigests,
		Images: s.Images, PreviousImages: s.PreviousImages,
	}
	if s.Accepted != nil {
		b.AcceptedRevision = s.Accepted.Revision
	}
	return b
}

// ErrNewerState means that a later release wrote the state.
var ErrNewerState = errors.New("state was written by a newer release")

func statePath(dir string) string { return filepath.Join(dir, "state.json") }

func setPath(dir, digest string) string { return filepath.Join(dir, "sets", digest+".json") }

// Approve adds commit to the approvals.
func (s *State) Approve(commit string) {
	s.Approved = slices.DeleteFunc(s.Approved, func(c string) bool { return c == commit })
	s.Approved = append(s.Approved, commit)
	s.Approved = s.Approved[max(0, len(s.Approved)-maxApproved):]
}

// encodeState returns the bytes of state.json.
func encodeState(body stateBody) ([]byte, error) {
	inner, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	// As json.Marshal has a stateFile, which would read all of it once more to see whether it is JSON.
	return fmt.Appendf(nil, `{"version":%d,"sum":"%08x","state":%s}`, stateVersion, checksum(inner), inner), nil
}

func decodeState(data []byte) (stateBody, error) {
	var file stateFile
	if err := json.Unmarshal(data, &file); err != nil {
		return stateBody{}, fmt.Errorf("not JSON: %w", err)
	}
	if file.Version > stateVersion {
		return stateBody{}, fmt.Errorf("%w (version %d, this one reads up to %d)", ErrNewerState, file.Version, stateVersion)
	}
	if sum := fmt.Sprintf("%08x", checksum(file.State)); file.Version < 1 || sum != file.Sum {
		return stateBody{}, errors.New("checksum does not match")
	}
	var body stateBody
	if err := json.Unmarshal(file.State, &body); err != nil {
		return stateBody{}, err
	}
	return body, nil
}

// loadState reads state.json, or the copy before it where it is damaged. Notes say what was wrong. aside, if not nil,
// is called with each damaged file.
func loadState(dir string, aside func(path string) string) (State, []string, error) {
	var notes []string
	path := statePath(dir)
	found := false
	for _, p := range []string{path, path + ".bak"} {
		data, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return State{}, notes, fmt.Errorf("read state: %w", err)
		}
		found = true
		body, err := decodeState(data)
		if errors.Is(err, ErrNewerState) {
			return State{}, notes, fmt.Errorf("%s: %w", p, err)
		}
		if err != nil {
			note := fmt.Sprintf("state file %s is damaged: %v", p, err)
			if aside != nil {
				note += aside(p)
			}
			notes = append(notes, note)
			continue
		}
		if p != path {
			notes = append(notes, "went on with the state before the last change, from "+p)
		}
		return fromBody(dir, body, notes, aside)
	}
	if found {
		notes = append(notes, "no usable state is left: approvals, backoffs, which Jobs have run and whether syncing was suspended are lost")
	}
	return State{}, notes, nil
}

func fromBody(dir string, body stateBody, notes []string, aside func(string) string) (State, []string, error) {
	s := State{
		AcceptedRevision: body.AcceptedRevision, Applied: body.Applied, AppliedAt: body.AppliedAt, Rejected: body.Rejected,
		Approved: body.Approved, Suspended: body.Suspended, Down: body.Down, Node: body.Node,
		Histories: body.Histories, Health: body.Health, Ledger: body.Ledger, ImageDigests: body.ImageDigests,
		Images: body.Images, PreviousImages: body.PreviousImages,
	}
	for _, want := range []struct {
		digest string
		into   **manifest.Set
	}{{body.Accepted, &s.Accepted}, {body.LastGood, &s.LastGood}} {
		if want.digest == "" {
			continue
		}
		set, err := loadSet(dir, want.digest)
		if err != nil {
			note := fmt.Sprintf("kept set %s is damaged: %v", setPath(dir, want.digest), err)
			if aside != nil && !errors.Is(err, fs.ErrNotExist) {
				note += aside(setPath(dir, want.digest))
			}
			notes = append(notes, note)
			continue
		}
		*want.into = set
	}
	return s, notes, nil
}

func loadSet(dir, digest string) (*manifest.Set, error) {
	data, err := os.ReadFile(setPath(dir, digest))
	if err != nil {
		return nil, err
	}
	if setDigest(data) != digest {
		return nil, errors.New("checksum does not match its name")
	}
	var set manifest.Set
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, err
	}
	return &set, nil
}

func setDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
