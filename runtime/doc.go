// Package runtime is the contract between deciding what should run and running it.
//
// It holds values and one interface: Runtime, which makes containers from a Spec and tells their Status. It knows no
// manifests, no Git and no Linux. Implementations are runtime/linux (the real one) and runtime/fake (in memory, with
// scripted failures); runtime/runtimetest is the conformance suite that both pass.
//
// Words: a container is one instance made from one Spec, with an ID of its own, which may be started several times.
// A name is what users call it; during an update two containers share a name.
//
// The package's name shadows the standard library's: import that one as goruntime.
package runtime
