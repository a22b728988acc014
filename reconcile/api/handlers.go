package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"reconciler/manifest"
	"reconciler/reconcile"
	"reconciler/reconcile/journal"
	"reconciler/reconcile/report"
)

// SyncRequest is the body of POST /v1/sync.
type SyncRequest struct {
	// TimeoutSeconds is how long to wait for the node to converge; 0: as long as the caller does.
	TimeoutSeconds float64 `json:"timeoutSeconds"`
}

// ApproveRequest is the body of POST /v1/approve, and with the whole commit its answer.
type ApproveRequest struct {
	Commit string `json:"commit"`
}

// NameRequest is the body of POST /v1/retry and /v1/restart.
type NameRequest struct {
	Name string `json:"name"` // name or namespace/name
}

type empty struct{}

func (s *Server) status(r *http.Request) (any, error) {
	v, err := s.agent.View(r.Context())
	if err != nil {
		return nil, err
	}
	return report.StatusOf(v), nil
}

func (s *Server) ps(r *http.Request) (any, error) {
	v, err := s.agent.View(r.Context())
	if err != nil {
		return nil, err
	}
	rows := report.Rows(v, r.URL.Query().Has("all"))
	if ns := r.URL.Query().Get("namespace"); ns != "" {
		rows = slices.DeleteFunc(rows, func(row report.Row) bool { return row.Namespace != ns })
	}
	return rows, nil
}

func (s *Server) describe(r *http.Request) (any, error) {
	name, err := manifest.ParseName(r.URL.Query().Get("name"), manifest.DefaultNamespace)
	if err != nil {
		return nil, invalid(err.Error(), "")
	}
	v, err := s.agent.View(r.Context())
	if err != nil {
		return nil, err
	}
	records, err := s.agent.Records()
	if err != nil {
		return nil, err
	}
	d, ok := report.Describe(v, records, name)
	if !ok {
		return nil, &reconcile.NotFoundError{What: name.Short()}
	}
	return d, nil
}

// queryName returns the name that a query asks for; nil where it asks for all.
func queryName(r *http.Request) (*manifest.Name, error) {
	text := r.URL.Query().Get("name")
	if text == "" {
		return nil, nil //nolint:nilnil // no name is an answer
	}
	name, err := manifest.ParseName(text, manifest.DefaultNamespace)
	if err != nil {
		return nil, invalid(err.Error(), "")
	}
	return &name, nil
}

func (s *Server) history(r *http.Request) (any, error) {
	name, err := queryName(r)
	if err != nil {
		return nil, err
	}
	records, err := s.agent.Records()
	if err != nil {
		return nil, err
	}
	v, err := s.agent.View(r.Context())
	if err != nil {
		return nil, err
	}
	return report.HistoryOf(records, name, v.State.Ledger), nil
}

// events answers with JSON lines: what the journal holds and, with ?follow, what happens from then on.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	name, err := queryName(r)
	if err != nil {
		writeError(w, err)
		return
	}
	follow := r.URL.Query().Has("follow")
	var records []journal.Record
	var live <-chan report.Event
	if follow {
		records, live, err = s.agent.Follow(r.Context())
	} else {
		records, err = s.agent.Records()
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	out := json.NewEncoder(w)
	flush := http.NewResponseController(w)
	send := func(e report.Event) bool {
		extendWrite(w)
		return out.Encode(e) == nil
	}
	for _, e := range report.EventsOf(records, name) {
		if !send(e) {
			return
		}
	}
	_ = flush.Flush()
	if !follow {
		return
	}
	for e := range live {
		if name != nil && (e.Name == nil || *e.Name != *name) {
			continue
		}
		if !send(e) || flush.Flush() != nil {
			return
		}
	}
}

func (s *Server) sync(r *http.Request) (any, error) {
	var body SyncRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	ctx := r.Context()
	if body.TimeoutSeconds > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(body.TimeoutSeconds*float64(time.Second)))
		defer cancel()
	}
	return s.agent.Sync(ctx)
}

func (s *Server) approve(r *http.Request) (any, error) {
	var body ApproveRequest
	if err := decodeBody(r, &body); err != nil {
		return nil, err
	}
	commit, err := s.agent.Approve(r.Context(), body.Commit)
	return ApproveRequest{Commit: commit}, err
}

func (s *Server) named(do func(context.Context, manifest.Name) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var body NameRequest
		if err := decodeBody(r, &body); err != nil {
			return nil, err
		}
		name, err := manifest.ParseName(body.Name, manifest.DefaultNamespace)
		if err != nil {
			return nil, invalid(err.Error(), "")
		}
		return empty{}, do(r.Context(), name)
	}
}

func (s *Server) plain(do func(context.Context) error) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) { return empty{}, do(r.Context()) }
}
