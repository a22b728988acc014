// Command reconciler keeps one server's containers the way a Git repository says.
//
// It owns the command line: one file per verb with its flags, wiring, printing and exit status. It decides nothing: what
// should run is decided in reconcile/plan, how in runtime/linux. Start reading at main.go, then root.go, then the file
// of a verb.
package main
