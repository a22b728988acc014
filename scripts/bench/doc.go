// Command bench measures this project beside what a user would pick instead, in one run on one machine, and writes the
// table of ratios into docs/benchmarks.md. It owns the peers' programs while it runs: it starts and stops them, with
// directories of their own. It is meant to run inside of namespaces that scripts/bench/run made, and cleans up nothing
// that ends with them. No other package may need it.
//
// Start reading at main.go, which says what is measured in which order. rows.go has the rows and what is to be reached,
// table.go makes a page of the figures (pure), the others each have one peer or one row.
package main
