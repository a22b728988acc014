// Package rootfs makes what a container sees as its files: an overlay of shared read-only layers with a fresh writable
// one for each start, shown with the container's own user ids, and what its mounts name: volumes, files of Configs, secrets,
// host paths, devices.
//
// It owns, in the state directory, snapshots/<id>/ (the writable layer or, with a limit, the image of the file system that
// it is on; thrown away with the container) and volumes/<namespace>/<name>/ (kept), and in the run directory containers/,
// a file system in memory with everything that must never reach a disk and with the mount points. All of it is found by
// the container's id, so that Setup and Teardown may be called again after a crash at any point and put things right.
//
// It must not know images, processes, cgroups or manifests. It trusts its caller's ids and layers, and trusts neither
// what is inside a root file system nor what a host path turns out to be.
//
// Start reading at Store in store.go, then setup.go; idmap.go is how ids are mapped, hostpath.go and secret.go are
// where the server's files are guarded; swap.go changes files below a running container; disk.go, on ext4.go and loop.go,
// is how a limit on disk is kept.
package rootfs
