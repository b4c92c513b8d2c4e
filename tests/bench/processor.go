package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// processorTime is what a process has used since it began, in user and kernel mode, all threads. Linux counts it in hundredths of a second.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// proc(5): utime and stime are fields 14 and 15; the second one, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	var ticks uint64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil
}

// userInstructions counts the user-mode instructions of a process while f runs; an error says why this machine cannot.
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
		return 0, errors.New(strings.TrimSpace(value))
	}
	return n, nil
}
