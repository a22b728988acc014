// Package supervisor is the parent of every container of one instance: it starts them with runc's libcontainer, keeps
// their output, records their exits and runs commands inside them. It is small, quiet and long-lived, so that the agent
// may crash, be killed or be upgraded while containers go on.
//
// Run is the supervisor's own process; everybody else talks to it through a Client (Ensure, Dial) over a unix socket.
// ReadLog and ReadExit read what it keeps on disk and need no supervisor.
//
// It runs what a bundle's config.json says and decides nothing: it knows no images, no mounts of a root file system, no
// restart policy. It is the only package that imports libcontainer, whose API is outside semantic versioning.
//
// A Holder, in the agent, keeps what a supervisor that is killed would take with it; Upgrade executes another release in the
// supervisor's process (docs/adr/0019).
//
// Start reading at client.go (what can be asked), then server.go and serve.go (who answers), container.go (one container's life) and
// logwriter.go (how output is kept). hold.go and holder.go are the two
// sides of holding, upgrade.go and handover.go those of an upgrade.
package supervisor
