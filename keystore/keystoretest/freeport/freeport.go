// Package freeport gives tests ports that stay theirs: a server that is stopped finds its own free
// again.
package freeport

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// Take returns a TCP port that is free on each of hosts (none: 127.0.0.1), and that no other caller
// on this machine is given as long as this process runs, whether a server listens on it or not. It
// is out of the range that the kernel gives to outgoing connections and to listeners on port 0.
func Take(hosts ...string) (int, error) {
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1"}
	}
	first, last := around()
	var err error
	for range 200 {
		port := first + rand.IntN(last-first)
		if !reserve(port) {
			continue
		}
		if err = free(port, hosts); err == nil {
			return port, nil
		}
	}
	return 0, fmt.Errorf("no port between %d and %d is free on each of %v: %w", first, last, hosts,
		err)
}

// For is Take for a test, which fails without a port.
func For(t testing.TB, hosts ...string) int {
	t.Helper()
	port, err := Take(hosts...)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// around is the larger part of what the kernel's range leaves, without the ports of well-known
// services.
var around = sync.OnceValues(func() (first, last int) {
	low, high := 32768, 60999 // Linux's, where it does not say
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

var reserved sync.Map // the listeners, by port; they last as long as the process

// reserve takes a name in the abstract socket namespace (unix(7)), which the kernel frees when we
// end, however we end.
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
