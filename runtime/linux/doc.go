// Package linux is the real Runtime: containers on this server's kernel.
//
// It ties the rooms below it together: image brings root file systems, rootfs mounts them and what containers see
// besides, idrange leases user ids, network gives addresses and ports, supervisor is the parent of every process. What it
// owns itself is the record of each container on disk (containers/<id>/), the OCI spec that a container becomes, what the
// name server is told, and the order in which things are made and taken away.
//
// It decides nothing about what should run: it knows no manifests, no Git, no restart policy. It imports nothing of
// libcontainer; the supervisor does.
//
// Of several containers of one name one serves: published ports and the name in DNS lead to it. serve.go keeps who that is.
//
// Start reading at Runtime in runtime.go, then create.go and start.go for the life of a container, network.go and
// userids.go for what is its own, record.go for what is kept of it, and spec.go, a pure function that makes the OCI spec.
// inside.go, dial.go and stats.go are about what runs.
package linux
