// Package manifest turns the YAML files of one commit into a Set: what is meant to run on one node, typed, validated,
// with overrides and the node's defaults applied.
//
// It owns the manifest language: its fields, rules, defaults, error texts and JSON Schema, and what a change of each
// field asks for (Class). It reads from an fs.FS and must not know Git, the operating system, the clock or a runtime:
// the same tree gives the same Set on every machine.
//
// Words: a manifest is one YAML document. A workload is a Container, Job or CronJob. A manifest is selected on a node
// when its nodeSelector matches the node's labels. A problem is one thing wrong, at one position.
//
// Start reading at Loader (load.go) for the way from files to a Set, Spec (spec.go) for the fields, check.go for the
// rules (each spec_*.go has a check_*.go), classes.go and diff.go for what changes mean, aliases.go for what bounds a
// stranger's YAML, and cache.go for what is kept from one commit to the next.
package manifest
