package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

// authFile is what is read of docker's config.json, which podman writes too.
type authFile struct {
	Auths       map[string]authn.AuthConfig `json:"auths"`
	CredsStore  string                      `json:"credsStore"`
	CredHelpers map[string]string           `json:"credHelpers"`
}

// unauthorisedError is a refusal with what is known of the credentials that were sent.
type unauthorisedError struct {
	err  error
	hint string
}

// Error implements error.
func (e *unauthorisedError) Error() string { return e.err.Error() }

// Unwrap returns the registry's answer.
func (e *unauthorisedError) Unwrap() error { return e.err }

// credentials are what the file says of one repository, and why if that is nothing.
type credentials struct {
	auth authn.Authenticator
	hint string // for the case that the registry refuses
}

// credentialsFor reads the credentials for a repository from the file. Helpers that the file names are not run: an
// agent runs as root and without a session, where they seldom work.
func (s *Store) credentialsFor(repo name.Repository) (credentials, error) {
	if s.opts.AuthFile == "" {
		return credentials{authn.Anonymous, hintOfStatus(401)}, nil
	}
	b, err := os.ReadFile(s.opts.AuthFile)
	if err != nil {
		return credentials{}, fmt.Errorf("read registry credentials: %w", err)
	}
	var file authFile
	if err := json.Unmarshal(b, &file); err != nil {
		// The text of a JSON or base64 error may quote the file.
		return credentials{}, fmt.Errorf("read registry credentials: %s: %w", s.opts.AuthFile, errAuthFile)
	}
	host := displayHost(repo.RegistryStr())
	best, length := authn.AuthConfig{}, -1
	for key, auth := range file.Auths {
		key = authKey(key)
		// Docker's keys are hosts; podman's may go on with a part of the repository's path, the longest wins.
		full := host + "/" + repo.RepositoryStr()
		if (key == host || key == full || strings.HasPrefix(full, key+"/")) && len(key) > length && auth != (authn.AuthConfig{}) {
			best, length = auth, len(key)
		}
	}
	if length >= 0 {
		return credentials{
			authn.FromConfig(best),
			fmt.Sprintf("the credentials for %s in %s were refused: log in again, and check that the account may pull this repository", host, s.opts.AuthFile),
		}, nil
	}
	c := credentials{authn.Anonymous, fmt.Sprintf("log in with \"docker login\" or \"podman login\": %s has no credentials for %s", s.opts.AuthFile, host)}
	helper := file.CredsStore
	for key, h := range file.CredHelpers {
		if authKey(key) == host {
			helper = h
		}
	}
	if helper != "" {
		c.hint = fmt.Sprintf("%s leaves the credentials for %s to the helper %q, which is not run: put them under \"auths\"", s.opts.AuthFile, host, clip(helper))
	}
	return c, nil
}

var errAuthFile = errors.New("not a docker config.json")

// authKey makes "https://index.docker.io/v1/" and the like the plain "docker.io".
func authKey(key string) string {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	key = strings.TrimSuffix(key, "/")
	for _, v := range []string{"/v1", "/v2"} {
		key = strings.TrimSuffix(key, v)
	}
	host, rest, found := strings.Cut(key, "/")
	host = displayHost(host)
	if found {
		return host + "/" + rest
	}
	return host
}

// displayHost is the name that people give to a registry's host.
func displayHost(host string) string {
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		return "docker.io"
	}
	return host
}
