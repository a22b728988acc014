// Package dns answers the names of a server's containers on the addresses of the bridge, and passes every other question
// on to the nameservers of this server.
//
// What it knows is one file, written by WriteNames and read again when it was replaced: the addresses to listen on, who
// may ask, and the names. Without the file it waits for it, so it may be started before there is a bridge. A name is
// "name" in the asking container's own namespace, or "name.namespace".
//
//	dns.WriteNames(path, dns.Names{Listen: …, Sources: …, Containers: …})   // the agent, atomically
//	dns.New(dns.Config{NamesFile: path}).Run(ctx)                            // the supervisor, until ctx ends
//
// It keeps no cache and no state, and must not know bridges, rules or manifests. Start reading at Server in server.go.
package dns
