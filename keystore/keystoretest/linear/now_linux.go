package linear

import (
	"time"

	"golang.org/x/sys/unix"
)

// now returns the processor time of the calling thread.
func now() time.Duration {
	var at unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &at); err != nil {
		panic(err)
	}
	return time.Duration(at.Nano())
}
