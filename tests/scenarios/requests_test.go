package scenarios

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

func send(method string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg || len(args) < 3 {
			ts.Fatalf("usage: %s TARGET NAME STATUS [CODE] [@BODY]", strings.ToLower(method))
		}
		r, want := request(ts, method, args)
		got := ts.Value(gateKey{}).(*gate.Gate).Do(ts.Value(testKey{}).(*testing.T), r)
		if summary(got) != want {
			ts.Fatalf("%s %s with %s: want %s, got %v", method, args[0], args[1], want, got)
		}
		ts.Stdout().Write(got.Body)
	}
}

func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 || args[0] != "get" {
		ts.Fatalf("usage: until get TARGET NAME STATUS [CODE]")
	}
	r, want := request(ts, "GET", args[1:])
	g, t := ts.Value(gateKey{}).(*gate.Gate), ts.Value(testKey{}).(*testing.T)
	gate.Until(t, strings.Join(args, " "), func() bool { return summary(g.Do(t, r)) == want })
}

// request returns the request that the arguments of a command describe, and the status and code
// that they expect.
func request(
	ts *testscript.TestScript, method string, args []string,
) (r gate.Request, want string) {
	r.Method, r.Target = method, args[0]
	if host, ok := strings.CutPrefix(r.Target, "https://"); ok {
		host, path, _ := strings.Cut(host, "/")
		r.Host, r.Target = host, "/"+path
	}
	if args[1] != "-" {
		r.Header = append(r.Header, credential(ts, args[1]))
	}
	words := args[2:]
	if file, ok := strings.CutPrefix(words[len(words)-1], "@"); ok {
		r.Body, words = ts.ReadFile(file), words[:len(words)-1]
		r.Header = append(r.Header, "Content-Type: application/json")
	}
	return r, strings.Join(words, " ")
}

// credential returns the header with the token in a file.
func credential(ts *testscript.TestScript, name string) string {
	where, file, elsewhere := strings.Cut(name, ":")
	switch {
	case !elsewhere:
		return "Authorization: Bearer " + strings.TrimSpace(ts.ReadFile(name))
	case where == "basic":
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(ts.ReadFile(file))))
		gate.Watch(encoded)
		return "Authorization: Basic " + encoded
	}
	return fmt.Sprintf("%s: %s", where, strings.TrimSpace(ts.ReadFile(file)))
}

func summary(got gate.Response) string {
	return strings.TrimSpace(strconv.Itoa(got.Status) + " " + got.Code())
}
