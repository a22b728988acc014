// Package probe asks containers how they are, and runs what their manifests say at the edges of their lives.
//
// It owns the startup, readiness and liveness probes and the postStart and preStop hooks: Kubernetes' fields, defaults and
// meaning. machine is the pure part: what is to be asked when, and what the answers mean. Manager gives it time, a Runtime
// and bounds. What follows from a container's health it does not know: that is the plan's.
//
// Start reading at Manager.Observe, then machine.answered.
package probe
