// Package idrange leases ranges of the server's user and group ids to containers, so that each has ids of its own and no
// two share any.
//
// A lease is a symbolic link in Dir, named by the first id of its range, that leads to the directory of the container that
// holds it. Once that directory is gone the lease is nobody's, so that a container that vanished gives its ids back
// without anybody's doing. Dir is one for the whole server, whatever instances there are, and may be cleared by a reboot:
// the processes that had the ids are gone too, and what is kept on disk (volumes) has the ids that are seen inside.
//
// It does not know what the ids are used for. Start reading at Leases.Lease.
package idrange
