// Package failpoint marks the places between the steps that change the disk or the kernel, where a process may die. A
// test that was built with the tag failpoints has it die exactly there; without the tag a mark is nothing, not even an
// instruction.
//
// The tag's build dies where a file says so: the environment variable named by Variable names a directory, in which the
// file with a point's name holds how often the point has to be passed. Files and not values, because a supervisor
// outlives the agent whose environment it has. What was passed is appended to the file Trace there.
//
// It knows nobody else of ours. What is marked is found by parsing the source: see runtimetest/failpoints.
package failpoint

// Variable is the environment variable that names the directory of the points.
const Variable = "RECONCILER_FAILPOINTS"

// Trace is the file in the directory of the points that gets a line of each point that was passed.
const Trace = "trace"
