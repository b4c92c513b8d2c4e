// Package freeport reserves TCP ports for tests. A port stays reserved while its server is stopped.
// Start reading at [Take].
package freeport

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// Take returns a TCP port that is free on each of the hosts, by default 127.0.0.1. As long as this
// process runs, no other caller in it gets the same port, even while no server listens on it. On
// Linux, callers in other processes of this machine do not get it either. If possible, the port is
// outside the range from which the kernel chooses ports for outgoing connections and for listeners
// on port 0.
func Take(hosts ...string) (int, error) {
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1"}
	}
	first, last := around()
	var err error
	for range 200 {
		port := first + rand.IntN(last-first)
		if !reserve(port) {
			err = errors.New("the last port tried is already reserved")
			continue
		}
		if err = free(port, hosts); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("reserving a port between %d and %d on %v: %w", first, last, hosts, err)
}

// For is like Take. It stops the test if there is no port.
func For(t testing.TB, hosts ...string) int {
	t.Helper()
	port, err := Take(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// around returns a range of ports outside the kernel's, below or above it, whichever is larger. If
// both are too small, it returns one that includes the kernel's. The range contains no ports of
// well-known services. last is exclusive.
var around = sync.OnceValues(func() (first, last int) {
	low, high := 32768, 60999 // the default of Linux
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &low, &high)
	}
	switch below, above := low-6000, 65535-high; {
	case below >= 2000 && below >= above:
		return 6000, low
	case above >= 2000:
		return high + 1, 65536
	default:
		return 6000, 65536
	}
})

var reserved sync.Map // listeners by port, open as long as the process runs

// reserve takes, on Linux, a name in the abstract socket namespace (unix(7)), which the kernel
// frees however the process ends.
func reserve(port int) bool {
	if runtime.GOOS != "linux" {
		_, taken := reserved.LoadOrStore(port, nil)
		return !taken
	}
	l, err := net.Listen("unix", "@caddy-apikeys-test-port-"+strconv.Itoa(port))
	if err != nil {
		return false
	}
	reserved.Store(port, l)
	return true
}

// free returns an error if a port is in use on one of the hosts.
func free(port int, hosts []string) error {
	for _, host := range hosts {
		l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			return err
		}
		_ = l.Close()
	}
	return nil
}
