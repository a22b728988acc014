// Package sourcetest has real Git servers for tests: repositories that the git program commits and pushes to (Repo),
// git http-backend behind net/http on loopback, with TLS, passwords and failures (GitHTTP), and OpenSSH's sshd with keys
// made for the test (SSHD). Every helper skips the test, with the reason, where a program is not installed, and cleans
// up after itself when the test ends. It is for tests of any package; nothing else imports it.
package sourcetest
