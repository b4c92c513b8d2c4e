package bench

import (
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processorTime is what a process has used since it began, in user and kernel mode, all threads.
func processorTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	// What clock_getcpuclockid(3) returns: Linux has the inverted process id in the clock's, and 2
	// for scheduler time, in nanoseconds.
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// userInstructions counts the user-mode instructions of a process while f runs; an error says why
// this machine cannot.
func userInstructions(pid int, f func() error) (float64, error) {
	perf := exec.Command("perf", "stat", "-x,", "-e", "instructions:u", "-p", strconv.Itoa(pid))
	var counted strings.Builder
	perf.Stderr = &counted
	if err := perf.Start(); err != nil {
		return 0, err
	}
	err := f()
	perf.Process.Signal(syscall.SIGINT) // makes perf report
	perf.Wait()                         // its exit status tells of the signal
	if err != nil {
		return 0, err
	}
	value, _, _ := strings.Cut(counted.String(), ",")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, errors.New("perf says " + strings.TrimSpace(value))
	}
	return n, nil
}
