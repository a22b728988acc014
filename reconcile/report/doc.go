// Package report turns what is known into what users see: the JSON of ps, status, describe, history, plan and events.
//
// It is pure: every function is given a View and returns values. It owns the words for state, health and reason and the
// names of the JSON fields, which scripts rely on. It must not know where a View came from (a running agent, or a state
// directory read without one), and prints nothing.
//
// Start reading at View, then Rows.
package report
