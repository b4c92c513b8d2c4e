// Package leaks reports leaked tokens to a fleet, as scanners do, and runs a scanner with the rules
// that the command line prints.
package leaks
