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

// processorTime returns the CPU time of a process in user and kernel mode, as counted by the
// scheduler in nanoseconds. Unlike the sum of /proc/PID/task/*/schedstat, it includes threads that
// have exited.
func processorTime(pid int) (time.Duration, error) {
	var t unix.Timespec
	// The id that clock_getcpuclockid(3) returns: Linux composes it of the inverted process id and
	// 2 for scheduler time, which is in nanoseconds.
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil {
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// userInstructions counts the user-mode instructions of a process while f runs. It fails on
// machines that cannot count them.
func userInstructions(pid int, f func() error) (float64, error) {
	perf := exec.Command("perf", "stat", "-x,", "-e", "instructions:u", "-p", strconv.Itoa(pid))
	var counted strings.Builder
	perf.Stderr = &counted
	if err := perf.Start(); err != nil {
		return 0, err
	}
	err := f()
	perf.Process.Signal(syscall.SIGINT) // makes perf report
	perf.Wait()                         // the exit status is that of the signal
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
