// Package fake is a Runtime in memory, for the tests of what drives one. It keeps the contract of package runtime
// (runtime/runtimetest shows that) with processes that are only numbers: what they do is said by a Program, when they
// end by Exit, and which operations fail or hang by Fail and Pause.
//
// It must not know manifests, plans or Linux. Start reading at Runtime; script.go holds what a test says to it.
package fake
