// Package imagetest makes images and registries for the tests of packages that need some.
//
// It owns Busybox, which makes a small image of this machine's own busybox, and Registry, which runs Debian's
// docker-registry on loopback. It must not know the store: tests push here and pull with what they test.
// Start reading at Busybox.
package imagetest
