package source

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing/object"
)

func TestAllowTrailers(t *testing.T) {
	t.Parallel()
	for message, want := range map[string][]string{
		"":                                    nil,
		"Reconciler-Allow: remove":            nil, // a subject is no trailer
		"subject\n\nReconciler-Allow: remove": {"remove"},
		"s\n\nbody\n\nreconciler-allow:remove, Other-thing\nSigned-off-by: Ada <a@b>\n": {"other-thing", "remove"},
		"s\n\nReconciler-Allow: remove\nReconciler-Allow: remove":                       {"remove"},
		"s\r\n\r\nReconciler-Allow: remove\r\n":                                         {"remove"},
		"s\n\nReconciler-Allow: a,\n  b\nX: y":                                          {"a", "b"},
		"s\n\nX: y\n Reconciler-Allow: remove":                                          nil, // belongs to X
		"s\n\nNever write\nReconciler-Allow: remove":                                    nil, // prose
		"s\n\nReconciler-Allow: remove\n\nand more":                                     nil,
		"s\n\nReconciler-Allow: $(rm) \x1b[31m ../x":                                    nil,
		"s\n\nX-Reconciler-Allow: remove":                                               nil,
	} {
		if got := allowed(message); !slices.Equal(got, want) {
			t.Errorf("%q allows %q, want %q", message, got, want)
		}
	}
}

func TestRevisionIsFitForPrinting(t *testing.T) {
	t.Parallel()
	c := &object.Commit{
		Author:  object.Signature{Name: "Eve\x1b[31m\n", Email: "e\u202eve@example.com"},
		Message: "\n\nfirst\x07 line\nsecond line\n\nbody",
	}
	rev := revisionOf(c)
	if rev.Author != "Eve\ufffd[31m <e\ufffdve@example.com>" || rev.Subject != "first\ufffd line second line" {
		t.Errorf("%q %q", rev.Author, rev.Subject)
	}
	if got := revisionOf(&object.Commit{Message: strings.Repeat("é", 1000)}).Subject; len([]rune(got)) != 201 {
		t.Errorf("%d runes", len([]rune(got)))
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("subject\n\nReconciler-Allow: remove\n")
	f.Fuzz(func(t *testing.T, message string) {
		for _, text := range append(allowed(message), subjectOf(message)) {
			if strings.ContainsFunc(text, unicode.IsControl) {
				t.Errorf("%q from %q", text, message)
			}
		}
		for _, word := range allowed(message) {
			if !strings.Contains(strings.ToLower(message), word) {
				t.Errorf("%q is allowed by %q", word, message)
			}
		}
	})
}

func FuzzURL(f *testing.F) {
	for _, s := range []string{"https://u:canary@h/x", "u:canary@h:x", "ssh://u:canary@h:22/x", "https://u:canary@h%zz/", "http://u:canary@h/x?token=canary"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		at, err := parseLocation(raw)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("control characters in %q", err)
			}
			return
		}
		if at.hasPassword() && len(at.endpoint.Password) > 8 && strings.Contains(at.display, at.endpoint.Password) {
			t.Errorf("%q shows the password of %q", at.display, raw)
		}
	})
}
