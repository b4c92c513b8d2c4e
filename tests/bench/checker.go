package bench

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

// checkerRedis is the environment variable with the Redis of a checker. A process that has it is a
// checker.
const checkerRedis = "BENCH_CHECKER_REDIS"

type checkerRecord struct {
	ID          string   `json:"id"`
	Permissions []string `json:"permissions"`
}

func checkerKey(token string) string {
	digest := sha256.Sum256([]byte(token))
	return "key:" + hex.EncodeToString(digest[:])
}

// runChecker runs a typical service behind forward_auth: for each request it sends one GET to
// Redis, and answers 204 with the identity or refuses. It writes its address to stdout.
func runChecker(redisAddr string) error {
	client := redis.NewClient(&redis.Options{Addr: redisAddr})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !bearer {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		text, err := client.Get(r.Context(), checkerKey(token)).Bytes()
		if errors.Is(err, redis.Nil) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var record checkerRecord
		if err == nil {
			err = json.Unmarshal(text, &record)
		}
		if err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		needed := "write"
		if method := r.Header.Get("X-Forwarded-Method"); method == http.MethodGet ||
			method == http.MethodHead {
			needed = "read"
		}
		if !slices.Contains(record.Permissions, needed) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("X-Key-Id", record.ID)
		w.WriteHeader(http.StatusNoContent)
	}))
}

// A checker is a running checker.
type checker struct {
	addr  string
	pid   int
	redis string
}

// startChecker runs a checker and its Redis as processes.
func startChecker(t testing.TB) checker {
	t.Helper()
	redisAddr := startRedis(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), checkerRedis+"="+redisAddr)
	addr := startUntil(t, cmd, func(string) bool { return true })
	return checker{addr, cmd.Process.Pid, redisAddr}
}

// know makes the checker accept a token for reading.
func (c checker) know(t testing.TB, token string) {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: c.redis})
	defer client.Close()
	record, err := json.Marshal(checkerRecord{ID: "bench", Permissions: []string{"read"}})
	if err == nil {
		err = client.Set(t.Context(), checkerKey(token), record, 0).Err()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func startRedis(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	l.Close()
	cmd := exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "",
		"--appendonly", "no", "--dir", t.TempDir())
	startUntil(t, cmd, func(line string) bool {
		return strings.Contains(line,
			"Ready to accept connections")
	})
	return addr
}

// startUntil runs a server until the test ends, and returns the line of its output that says that
// it is ready.
func startUntil(t testing.TB, cmd *exec.Cmd, ready func(line string) bool) string {
	t.Helper()
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if ready(lines.Text()) {
			go func() { // discard the rest of its output
				for lines.Scan() {
				}
			}()
			return lines.Text()
		}
	}
	t.Fatalf("%s ended before it was ready", cmd.Path)
	return ""
}
