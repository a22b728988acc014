package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

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

// credentialsFor reads the credentials for a repository from the file or, where that has none, from the helper that it
// names. A helper that fails is told of only if the registry refuses: many images need no credentials.
func (s *Store) credentialsFor(ctx context.Context, repo name.Repository) (credentials, error) {
	if s.opts.AuthFile == "" {
		return credentials{authn.Anonymous, hintOfStatus(401)}, nil
	}
	b, err := os.ReadFile(s.opts.AuthFile)
	if err != nil {
		return credentials{}, fmt.Errorf("read registry credentials: %w", err)
	}
	var file authFile
	if json.Unmarshal(b, &file) != nil {
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
	helper, server := file.helperFor(host)
	if helper == "" {
		return c, nil
	}
	auth, err := runHelper(ctx, helper, server)
	if err != nil {
		c.hint = fmt.Sprintf("%s leaves the credentials for %s to docker-credential-%s: %s", s.opts.AuthFile, host, clip(helper), clip(err.Error()))
		return c, nil
	}
	return credentials{
		authn.FromConfig(auth),
		fmt.Sprintf("the credentials for %s from docker-credential-%s were refused: check that the account may pull this repository", host, clip(helper)),
	}, nil
}

// helperFor returns the helper for a registry, and what that calls the registry.
func (f authFile) helperFor(host string) (helper, server string) {
	for key, h := range f.CredHelpers {
		if authKey(key) == host {
			return h, key
		}
	}
	if host == "docker.io" {
		return f.CredsStore, authn.DefaultAuthKey
	}
	return f.CredsStore, host
}

const helperTimeout = 30 * time.Second

// runHelper asks one of docker's credential helpers: https://github.com/docker/docker-credential-helpers. What it prints
// is in no message, because it may be a password.
func runHelper(parent context.Context, helper, server string) (authn.AuthConfig, error) {
	if strings.ContainsRune(helper, '/') {
		return authn.AuthConfig{}, errors.New("not the name of a program")
	}
	ctx, cancel := context.WithTimeout(parent, helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+helper, "get")
	cmd.Stdin = strings.NewReader(server)
	cmd.WaitDelay = time.Second // for what it may have started itself
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return authn.AuthConfig{}, fmt.Errorf("no answer within %s", helperTimeout)
	case err != nil && strings.TrimSpace(string(out)) == "credentials not found in native keychain":
		return authn.AuthConfig{}, errors.New("it has none")
	case err != nil:
		return authn.AuthConfig{}, err
	}
	var answer struct{ Username, Secret string }
	if json.Unmarshal(out, &answer) != nil {
		return authn.AuthConfig{}, errors.New("its answer is not in the format of a credential helper")
	}
	if answer.Username == "<token>" {
		return authn.AuthConfig{IdentityToken: answer.Secret}, nil
	}
	return authn.AuthConfig{Username: answer.Username, Password: answer.Secret}, nil
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
