package source

import (
	"regexp"
	"slices"
	"strings"

	"reconciler/manifest"

	"github.com/go-git/go-git/v5/plumbing/object"
)

// revisionOf turns a commit into what the others know of it. Texts are fit for printing.
func revisionOf(c *object.Commit) manifest.Revision {
	author := printable(c.Author.Name, 100)
	if mail := printable(c.Author.Email, 100); mail != "" {
		author = strings.TrimSpace(author + " <" + mail + ">")
	}
	return manifest.Revision{
		Commit: c.Hash.String(), Author: author, Subject: subjectOf(c.Message),
		Time: c.Committer.When.UTC(), Allow: allowed(c.Message),
	}
}

// subjectOf returns the first paragraph on one line, as git log --oneline shows it.
func subjectOf(message string) string {
	message = strings.TrimLeft(strings.ReplaceAll(message, "\r\n", "\n"), "\n \t")
	first, _, _ := strings.Cut(message, "\n\n")
	return printable(first, 200)
}

const allowTrailer = "reconciler-allow"

// allowed returns the values of Reconciler-Allow trailers: lower case, sorted, each once. Trailers are the last paragraph
// of a message, after the subject, in which every line is "Key: value" or continues the line before (git-interpret-trailers
// is laxer; here a word in prose must not let a removal through).
func allowed(message string) []string {
	message = strings.TrimSpace(strings.ReplaceAll(message, "\r\n", "\n"))
	cut := strings.LastIndex(message, "\n\n")
	if cut < 0 {
		return nil
	}
	trailer := regexp.MustCompile(`^[A-Za-z0-9-]+[ \t]*:`)
	word := regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)
	var values []string
	inAllow := false
	for i, line := range strings.Split(message[cut+2:], "\n") {
		switch {
		case trailer.MatchString(line):
			key, value, _ := strings.Cut(line, ":")
			inAllow = strings.EqualFold(strings.TrimSpace(key), allowTrailer)
			line = value
		case i > 0 && (strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t")):
		default:
			return nil
		}
		if !inAllow {
			continue
		}
		for _, v := range strings.FieldsFunc(strings.ToLower(line), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
			if word.MatchString(v) {
				values = append(values, v)
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}
