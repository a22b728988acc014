// Package failpoints is the tests' side of package failpoint: it finds the marks by parsing the source, says where one is
// missing, and has a process die at one of them. Start reading at Collect and Arm.
package failpoints
