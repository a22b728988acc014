package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"reconciler/reconcile"
)

// Error is what the API answers where a request fails.
type Error struct {
	Message string `json:"message"`
	Hint    string `json:"hint"`
	Reason  string `json:"reason"` // one word: NotFound, Invalid, Forbidden, Unavailable, Internal
	Status  int    `json:"-"`      // of HTTP
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// HintText returns what a person can do.
func (e *Error) HintText() string { return e.Hint }

// Is makes errors.Is(err, reconcile.ErrNotRunning) work across the socket.
func (e *Error) Is(target error) bool {
	return target == reconcile.ErrNotRunning && e.Reason == ReasonUnavailable
}

// The reasons of an Error.
const (
	ReasonNotFound    = "NotFound"
	ReasonInvalid     = "Invalid"
	ReasonForbidden   = "Forbidden"
	ReasonUnavailable = "Unavailable"
	ReasonInternal    = "Internal"
)

type errorBody struct {
	Error *Error `json:"error"`
}

// asError says what a failure is in the words of the API.
func asError(err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	e := &Error{Message: err.Error(), Reason: ReasonInternal, Status: http.StatusInternalServerError}
	var notFound *reconcile.NotFoundError
	var usage *reconcile.UsageError
	var notKept *reconcile.NotKeptError
	switch {
	case errors.As(err, &notFound):
		e.Reason, e.Status, e.Hint = ReasonNotFound, http.StatusNotFound, notFound.Hint()
	case errors.As(err, &usage):
		e.Reason, e.Status, e.Hint = ReasonInvalid, http.StatusBadRequest, usage.Hint()
	case errors.As(err, &notKept):
		e.Hint = notKept.Hint()
	case errors.Is(err, reconcile.ErrNotRunning), errors.Is(err, context.Canceled): // the latter: it stops, or nobody listens
		e.Message, e.Reason, e.Status = reconcile.ErrNotRunning.Error(), ReasonUnavailable, http.StatusServiceUnavailable
	}
	return e
}

func invalid(message, hint string) *Error {
	return &Error{Message: message, Hint: hint, Reason: ReasonInvalid, Status: http.StatusBadRequest}
}

func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	writeJSON(w, e.Status, errorBody{Error: e})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	extendWrite(w)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller is gone if this fails
}
