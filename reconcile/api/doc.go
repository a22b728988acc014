// Package api is the agent's HTTP API and its client: what the command line uses, health checks and metrics.
//
// It owns the paths, their JSON envelope, who may call what (everything on the unix socket of mode 0600; over TCP only
// what changes nothing, unless the caller has the token) and the names of the metrics. It must not decide anything: it
// asks the agent and lets package report put the answer into words.
//
// Start reading at Server.Handler, then Client.
package api
