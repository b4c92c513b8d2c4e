package freeport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestPortsAreUnique runs itself in other processes, which take ports at the same time.
func TestPortsAreUnique(t *testing.T) {
	const each = 300
	if os.Getenv("FREEPORT_CHILD") != "" {
		for range each {
			port, err := Take()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println("port", port)
		}
		fmt.Println("done")
		if _, err := fmt.Scanln(new(string)); err != nil { // until all processes have their ports
			t.Fatal(err)
		}
		return
	}
	seen := make(map[string]bool)
	for range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPortsAreUnique$")
		cmd.Env = append(os.Environ(), "FREEPORT_CHILD=1")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			fmt.Fprintln(in, "end")
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
		})
		for {
			var word, port string
			if _, err := fmt.Fscan(out, &word); err != nil {
				t.Fatal(err)
			}
			if word == "done" {
				break
			}
			if _, err := fmt.Fscan(out, &port); err != nil {
				t.Fatal(err)
			}
			if seen[port] {
				t.Errorf("port %s was returned twice", port)
			}
			seen[port] = true
		}
	}
	if len(seen) != 4*each {
		t.Errorf("%d ports, want %d", len(seen), 4*each)
	}
}

func TestPortsAreOutsideTheKernelsRange(t *testing.T) {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if port, first, last := l.Addr().(*net.TCPAddr).Port, 0, 0; port > 0 {
			if first, last = around(); port >= first && port < last {
				t.Fatalf("the kernel chose %d, which is between %d and %d", port, first, last)
			}
		}
	}
	if _, err := Take("127.0.0.1", "256.0.0.1"); err == nil ||
		!strings.Contains(err.Error(), "256.0.0.1") {
		t.Errorf("an invalid host: %v", err)
	}
}
