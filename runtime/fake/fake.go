package fake

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"reconciler/runtime"
)

// Runtime is an in-memory runtime.Runtime. Make one with New.
type Runtime struct {
	now     func() time.Time
	program func(runtime.Spec) Program

	mu         sync.Mutex
	last       int // the number of the last container, and of its pid
	containers map[runtime.ID]*container
	prepared   map[string]bool
	digests    map[string]string
	faults     []*fault
	calls      []Call
	watchers   map[*watcher]struct{}
	drifted    []runtime.Repaired
}

// container is one container; all but turn is guarded by Runtime.mu.
type container struct {
	number  int
	turn    chan struct{} // holds a token while nobody works on the container
	status  runtime.Status
	program Program
	output  []string
	exited  chan struct{} // closed at the exit of the present start
}

// Options change what a Runtime does; the zero value is fine.
type Options struct {
	// Now is the clock, time.Now by default (which testing/synctest makes virtual).
	Now func() time.Time
	// Program says what the process of a spec does, at each start; Commands by default.
	Program func(runtime.Spec) Program
}

// New returns a Runtime without containers.
func New(o Options) *Runtime {
	r := &Runtime{
		now:        o.Now,
		program:    o.Program,
		containers: map[runtime.ID]*container{},
		prepared:   map[string]bool{},
		digests:    map[string]string{},
		watchers:   map[*watcher]struct{}{},
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.program == nil {
		r.program = Commands
	}
	return r
}

var _ runtime.Runtime = (*Runtime)(nil)

// List returns every container, sorted by name, then by creation.
func (r *Runtime) List(ctx context.Context) ([]runtime.Status, error) {
	if err := r.begin(ctx, OpList, runtime.Name{}, ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b *container) int {
		x, y := a.status.Spec.Name, b.status.Spec.Name
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name), cmp.Compare(a.number, b.number))
	})
	out := make([]runtime.Status, len(list))
	for i, c := range list {
		out[i] = c.status
		if c.status.State == runtime.StateRunning {
			out[i].Ran = r.now().Sub(c.status.StartedAt)
		}
	}
	return out, nil
}

// Prepare resolves the digest of the spec's image or capture and remembers that it is here.
func (r *Runtime) Prepare(ctx context.Context, spec runtime.Spec, in runtime.Inputs) (runtime.Prepared, error) {
	if err := r.begin(ctx, OpPrepare, spec.Name, ""); err != nil {
		return runtime.Prepared{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	digest, err := r.digest(spec)
	if err != nil {
		e := failed(OpPrepare, spec.Name, "", err)
		e.Permanent = true
		return runtime.Prepared{}, e
	}
	if in.Progress != nil {
		in.Progress(runtime.Progress{Name: spec.Name, What: "prepare " + digest, Done: 1, Total: 1})
	}
	r.prepared[digest] = true
	for _, ic := range spec.InitContainers {
		d, err := r.digest(spec.ForInit(ic))
		if err != nil {
			return runtime.Prepared{}, failed(OpPrepare, spec.Name, "", err)
		}
		r.prepared[d] = true
	}
	return runtime.Prepared{ImageDigest: digest}, nil
}

// digest returns what spec's root file system is known by. The caller holds r.mu.
func (r *Runtime) digest(spec runtime.Spec) (string, error) {
	switch {
	case spec.Image != nil && spec.Capture != nil:
		return "", fmt.Errorf("spec of %s has both an image and a capture", spec.Name)
	case spec.Image != nil && spec.Image.Digest != "":
		return spec.Image.Digest, nil
	case spec.Image != nil && r.digests[spec.Image.Ref] != "":
		return r.digests[spec.Image.Ref], nil
	case spec.Image != nil:
		return hash("image " + spec.Image.Ref), nil
	case len(spec.Capture) > 0:
		b, err := json.Marshal(spec.Capture)
		return hash("capture " + string(b)), err
	default:
		return "", fmt.Errorf("spec of %s has neither an image nor a capture", spec.Name)
	}
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Create makes a container. Unlike the real thing it insists that Prepare was called, to find callers that forget.
func (r *Runtime) Create(ctx context.Context, spec runtime.Spec) (runtime.ID, error) {
	if err := r.begin(ctx, OpCreate, spec.Name, ""); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	digest, err := r.digest(spec)
	if err == nil && !r.prepared[digest] {
		err = fmt.Errorf("%s of %s was not prepared", digest, spec.Name)
	}
	for _, ic := range spec.InitContainers {
		if d, initErr := r.digest(spec.ForInit(ic)); err == nil && (initErr != nil || !r.prepared[d]) {
			err = fmt.Errorf("%s of init container %s of %s was not prepared", d, ic.Name, spec.Name)
		}
	}
	if err != nil {
		return "", failed(OpCreate, spec.Name, "", err)
	}
	serving := true
	for _, o := range r.containers {
		if o.status.Spec.Name == spec.Name && o.status.Serving {
			serving = o.status.State != runtime.StateRunning
			o.status.Serving = o.status.State == runtime.StateRunning
		}
	}
	return r.add(runtime.Status{Spec: spec, State: runtime.StateCreated, ImageDigest: digest, Hostname: spec.Hostname, Serving: serving}), nil
}

// add gives s an ID where it has none, and keeps it. The caller holds r.mu.
func (r *Runtime) add(s runtime.Status) runtime.ID {
	r.last++
	if s.ID == "" {
		s.ID = runtime.ID(fmt.Sprintf("fake-%06d", r.last))
	}
	if s.CreatedAt.IsZero() {
		s.CreatedAt = r.now()
	}
	c := &container{number: r.last, turn: make(chan struct{}, 1), status: s, exited: make(chan struct{})}
	c.turn <- struct{}{}
	if s.State == runtime.StateRunning {
		c.program = r.program(s.Spec)
		c.status.Pid = 100_000 + r.last
	}
	r.containers[s.ID] = c
	return s.ID
}

// failed makes err the error of an operation.
func failed(op Op, name runtime.Name, id runtime.ID, err error) *runtime.Error {
	e := &runtime.Error{Op: fmt.Sprintf("%s %s", op, name), ID: id, Name: name, Err: err}
	if id != "" && name == (runtime.Name{}) {
		e.Op = fmt.Sprintf("%s %s", op, id)
	}
	return e
}
