//go:build race

package node

// fewer divides the number of random histories. With the race detector, each takes five times the CPU
// time, and a quarter of them finds the same races. TestNodeAblations in tests/faults runs all without
// it.
const fewer = 4
