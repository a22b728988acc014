// Package image brings root file systems to this server and keeps them: it pulls from registries, imports from the
// files of a commit, captures this server's own files, unpacks layers and collects what nobody needs any more.
//
// It owns two directories below Options.Dir: images/, an OCI image layout with everything as it was received, and
// layers/<chain id>/fs, each layer unpacked once and shared read-only by every container that needs it. A layer is
// unpacked beside them and renamed into place when it is whole, so what has its final name is complete.
//
// It must not know containers, mounts or manifests: who is in use is told to Prune and Collect as a list of digests.
//
// Start reading at Store in store.go, then Ensure; unpack.go and filter.go are where a stranger's tar meets this server's
// disk, elf.go is how a captured program finds its libraries. What is trusted is told in each of those files.
package image
