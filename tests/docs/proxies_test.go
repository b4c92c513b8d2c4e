package docs

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/keystore/keystoretest/freeport"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// block returns the first code block of a language below a heading of a page.
func block(t *testing.T, page, heading, language string) string {
	t.Helper()
	_, chapter, _ := strings.Cut(pages(t)[page], "\n"+heading+"\n")
	_, after, found := strings.Cut(chapter, "```"+language+"\n")
	text, _, closed := strings.Cut(after, "```")
	if !found || !closed {
		t.Fatalf("%s has no block in %s below %q", page, language, heading)
	}
	return text
}

// recipe returns a code block of docs/api_key.md for another proxy.
func recipe(t *testing.T, proxy, language string) string {
	t.Helper()
	return block(t, "docs/api_key.md", "### "+proxy, language)
}

// replace replaces texts in a recipe, which must contain them.
func replace(t *testing.T, recipe string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(recipe, pairs[i]) {
			t.Fatalf("the recipe has no %q any more", pairs[i])
		}
		recipe = strings.ReplaceAll(recipe, pairs[i], pairs[i+1])
	}
	return recipe
}

// runProxy runs a program until the end of the test, and waits until it listens.
func runProxy(t *testing.T, dir, address, program string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + program); err != nil {
			t.Fatalf("this test needs a real %s: `make deps` installs it", program)
		}
	}
	output, err := os.Create(filepath.Join(dir, "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	cmd.Env = append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // its workers too
		<-ended
		if t.Failed() {
			text, _ := os.ReadFile(output.Name())
			t.Logf("output of %s:\n%s", program, text)
		}
	})
	gate.Until(t, program+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s ended by itself", program)
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	// readable for the workers of a proxy, which run as another user
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// A proxyRecipe runs a proxy with its recipe at an address, in front of the upstream of g.
type proxyRecipe struct {
	forwarded string
	folded    bool // refusals other than 401 become 403
	resolved  bool // the proxy resolves dots in a path before it asks g
	run       func(t *testing.T, dir, address string, g *gate.Gate)
}

// TestProxyRecipes runs the recipes for other proxies with the real programs and checks the
// requests that reach the backend. Traefik takes minutes to build, so it runs only if
// TRAEFIK_BINARY names the program, as in `make traefik`.
func TestProxyRecipes(t *testing.T) {
	recipes := map[string]proxyRecipe{
		"Caddy": {"forwarded", false, false, func(t *testing.T, dir, address string, g *gate.Gate) {
			config := replace(t, recipe(t, "Caddy on another machine", "caddyfile"),
				"api.example.com {", "http://"+address+" {", "auth.internal:8080",
				strings.TrimPrefix(g.URL, "http://"), "localhost:9000", g.Upstream.Addr)
			write(t, dir, "Caddyfile", "{\n\tadmin off\n\tpersist_config off\n}\n"+config)
			runProxy(t, dir, address, gate.Binary(t), "run", "--config", "Caddyfile")
		}},
		"nginx": {"forwarded nginx", true, false,
			func(t *testing.T, dir, address string, g *gate.Gate) {
				site := replace(t, recipe(t, "nginx", "nginx"), "http://auth.internal:8080", g.URL,
					"http://backend", g.Upstream.URL)
				write(t, dir, "nginx.conf", fmt.Sprintf(`
				load_module /usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so;
				daemon off;
				user root;
				pid nginx.pid;
				error_log stderr;
				events {}
				http {
					access_log off;
					client_body_temp_path body; proxy_temp_path proxy;
					fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
					server {
						listen %s;
						%s
					}
				}`, address, site))
				runProxy(t, dir, address, "nginx", "-p", dir, "-c", "nginx.conf")
			}},
		"HAProxy": {"forwarded", false, false,
			func(t *testing.T, dir, address string, g *gate.Gate) {
				script := write(t, dir, "apikeys.lua",
					replace(t, recipe(t, "HAProxy", "lua"), "http://auth.internal:8080", g.URL))
				config := replace(t, recipe(t, "HAProxy", "haproxy"),
					"/etc/haproxy/apikeys.lua", script, "bind :8000", "bind "+address,
					"server api backend", "server api "+g.Upstream.Addr)
				write(t, dir, "haproxy.cfg",
					"defaults\n\ttimeout connect 5s\n\ttimeout client 30s\n\ttimeout server 30s\n"+
						config)
				runProxy(t, dir, address, "haproxy", "-f", "haproxy.cfg")
			}},
	}
	if traefik := os.Getenv("TRAEFIK_BINARY"); traefik != "" {
		recipes["Traefik"] = proxyRecipe{"forwarded", false, true,
			func(t *testing.T, dir, address string, g *gate.Gate) {
				write(t, dir, "api.yaml", replace(t, recipe(t, "Traefik", "yaml"),
					"http://auth.internal:8080", g.URL, "http://backend", g.Upstream.URL))
				runProxy(t, dir, address, traefik, "--entrypoints.web.address="+address,
					"--providers.file.filename=api.yaml",
					"--global.checknewversion=false", "--global.sendanonymoususage=false")
				gate.Until(t, "Traefik has the recipe", func() bool {
					status, _ := sendThrough(t, address, "GET", "/v1/acme/x", nil, "")
					return status != 404
				})
			}}
	}
	for name, proxy := range recipes {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "proxy-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			g := gate.Start(t, gate.Config{
				APIKey: "public /public/*\nmethods write MOVE\npass_metadata " +
					"team\nnamespace_path /v1/{namespace}/**\n" + proxy.forwarded,
				Servers: "trusted_proxies static 127.0.0.1/32",
			})
			address := fmt.Sprintf("127.0.0.1:%d", freeport.For(t))
			proxy.run(t, dir, address, g)
			tryProxy(t, g, address, proxy.folded, proxy.resolved)
			tryLimit(t, g, address, name == "nginx" || name == "HAProxy")
		})
	}
}

// tryLimit checks that a proxy passes the limit headers to the client, in refusals and, if
// announced is true, in all responses.
func tryLimit(t *testing.T, g *gate.Gate, address string, announced bool) {
	key := g.Mint(t, gate.JSON{"name": "Limited", "namespace": "acme", "access": "read_only",
		"rate_limit": gate.JSON{"requests": 1, "per": "24h"}})
	for _, want := range []int{200, 429} {
		status, header := sendThrough(t, address, "GET", "/v1/acme/x",
			[]string{"Authorization: Bearer " + string(key.Token)}, "")
		if status != want {
			t.Errorf("%d, want %d", status, want)
		}
		if (header.Get("Retry-After") != "") != (want == 429) {
			t.Errorf("%d with Retry-After %q", status, header.Get("Retry-After"))
		}
		if limit := header.Values("RateLimit"); (announced || want == 429) &&
			(len(limit) != 1 || !strings.HasPrefix(limit[0], `"rate";r=0;t=`) ||
				header.Get("RateLimit-Policy") == "") {
			t.Errorf("%d with RateLimit %q and RateLimit-Policy %q", status, limit,
				header.Values("RateLimit-Policy"))
		}
	}
}

// tryProxy sends requests through a proxy that asks g about them.
func tryProxy(t *testing.T, g *gate.Gate, address string, folded, resolved bool) {
	g.Namespace(t, "acme", nil)
	mint := func(fields gate.JSON) gate.Key {
		fields["name"], fields["namespace"] = "Recipe", "acme"
		return g.Mint(t, fields)
	}
	writer := mint(gate.JSON{"access": "read_write", "metadata": gate.JSON{"team": "erp"}})
	reader := mint(gate.JSON{"access": "read_only"})
	office := mint(gate.JSON{"access": "read_only", "allowed_ips": []string{"192.0.2.0/24"}})
	bearer := func(k gate.Key) string { return "Authorization: Bearer " + string(k.Token) }

	identity := func(k gate.Key) map[string]string {
		return map[string]string{
			"X-Apikey-Id": k.ID, "X-Apikey-Name": "Recipe", "X-Apikey-Namespace": "acme",
			"X-Apikey-Owner": "root", "X-Apikey-Permissions": "read,write",
			"X-Apikey-Meta-Team": "erp",
		}
	}
	nobody := map[string]string{}
	spoofed := []string{
		"X-Apikey-Id: spoof", "X-Apikey-Name: spoof", "X-Apikey-Namespace: spoof",
		"X-Apikey-Owner: spoof", "X-Apikey-Permissions: spoof", "X-Apikey-Meta-Team: spoof",
		"X-Apikey-Meta-Other: spoof", "X-Apikey-Anything: spoof", "x_apikey_id: spoof",
		"X.Apikey.Owner: spoof",
		"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE",
		"X-Forwarded-Uri: /v1/spoof", "X-Forwarded-Method: DELETE", "X-Forwarded-Prefix: /spoof",
		"X-Forwarded-Port: spoof", "X-Forwarded-User: spoof",
		"X-Original-URL: /v1/spoof", "X-Original-URI: /v1/spoof", "X-Original-Method: DELETE",
		"X-Rewrite-URL: /v1/spoof",
		"X_HTTP_Method_Override: DELETE", "X_Forwarded_Uri: /v1/spoof",
		"X-Forwarded_Prefix: /spoof",
	}
	forged := []string{"X-Forwarded-Uri: /public/x", "X-Forwarded-Method: GET",
		"X-Forwarded-Host: x.example", "X-Forwarded-For: 192.0.2.1"}
	bad := 400
	if folded {
		bad = 403
	}
	dots := bad
	if resolved {
		dots = 401
	}
	for _, test := range []struct {
		what, send string
		header     []string
		body       string
		status     int
		identity   map[string]string
	}{
		{"bearer", "GET /v1/acme/a%20b?x=1,2", []string{bearer(writer)}, "", 200, identity(writer)},
		{"X-API-Key", "GET /v1/acme/x", []string{"X-API-Key: " + string(writer.Token)}, "", 200,
			identity(writer)},
		{"a body", "POST /v1/acme/x", []string{bearer(writer), "Content-Type: text/plain"}, "hello",
			200, identity(writer)},
		{"spoofed headers", "GET /v1/acme/x", append(slices.Clone(spoofed), bearer(writer)), "",
			200, identity(writer)},
		{"spoofed headers on a public path", "GET /public/x", spoofed, "", 200, nobody},
		{"a token on a public path", "GET /public/x",
			[]string{bearer(writer), "X-API-Key: " + string(reader.Token)}, "", 200, nobody},
		{"no key", "GET /v1/acme/x", nil, "", 401, nil},
		{"no key, forged headers", "GET /v1/acme/x", forged, "", 401, nil},
		{"a forged method", "POST /v1/acme/x",
			append(slices.Clone(forged), bearer(reader)), "", 403, nil},
		{"a forged address", "GET /v1/acme/x",
			append(slices.Clone(forged), bearer(office)), "", 403, nil},
		{"a forged key", "GET /v1/acme/x", []string{"X-API-Key: ak_" + strings.Repeat("0", 58)}, "",
			401, nil},
		{"two keys", "GET /v1/acme/x",
			[]string{bearer(writer), "X-API-Key: " + string(reader.Token)}, "", bad, nil},
		{"one header twice", "GET /v1/acme/x",
			[]string{"X-API-Key: " + string(writer.Token), "X-API-Key: " + string(reader.Token)},
			"", bad, nil},
		{"a preflight", "OPTIONS /v1/acme/x",
			[]string{"Origin: https://a.example", "Access-Control-Request-Method: PUT"}, "", 401,
			nil},
		{"dots", "GET /public/../v1/acme/x", nil, "", dots, nil},
		{"encoded dots", "GET /public/%2e%2e/v1/acme/x", nil, "", dots, nil},
		{"two targets", "GET /public/x,/v1/acme/x", nil, "", bad, nil},
		{"MOVE", "MOVE /v1/acme/x", []string{bearer(writer),
			"Destination: http://" + address + "/v1/acme/y"}, "", 200, identity(writer)},
		{"MOVE elsewhere", "MOVE /v1/acme/x",
			[]string{bearer(writer), "Destination: http://" + address + "/v1/rival/y"}, "", 403,
			nil},
		{"MOVE without Destination", "MOVE /v1/acme/x", []string{bearer(writer)}, "", bad, nil},
	} {
		t.Run(test.what, func(t *testing.T) {
			method, target, _ := strings.Cut(test.send, " ")
			g.Upstream.Take()
			status, answer := sendThrough(t, address, method, target, test.header, test.body)
			reached := g.Upstream.Take()
			if status != test.status {
				t.Errorf("%d, want %d", status, test.status)
			}
			if status == 401 && !strings.HasPrefix(answer.Get("WWW-Authenticate"), "Bearer") {
				t.Errorf("401 with the challenge %q", answer.Get("WWW-Authenticate"))
			}
			if test.identity == nil {
				if len(reached) != 0 {
					t.Errorf("%s %s reached the backend", reached[0].Method, reached[0].Target)
				}
				return
			}
			if len(reached) != 1 {
				t.Fatalf("%d requests at the backend", len(reached))
			}
			got := reached[0]
			if got.Method != method || got.Target != target || got.Body != test.body {
				t.Errorf("the backend got %s %s with %q", got.Method, got.Target, got.Body)
			}
			for _, k := range []gate.Key{writer, reader, office} {
				if strings.Contains(got.Wire, string(k.Token)) {
					t.Error("the backend got a token")
				}
			}
			for _, sign := range []string{"spoof", "DELETE"} {
				if strings.Contains(got.Wire, sign) {
					t.Errorf("the backend got a header of the client:\n%s", got.Wire)
				}
			}
			found := map[string]string{}
			for header, values := range got.Header {
				if strings.HasPrefix(header, "X-Apikey-") {
					found[header] = strings.Join(values, "|")
				}
			}
			for header, value := range test.identity {
				if found[header] != value {
					t.Errorf("%s is %q, want %q", header, found[header], value)
				}
			}
			if len(found) != len(test.identity) {
				t.Errorf("the backend got %v", found)
			}
		})
	}
}

// sendThrough sends a request unchanged and returns the status and header of the response.
func sendThrough(
	t *testing.T, address, method, target string, header []string, body string,
) (int, http.Header) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	lines := append([]string{method + " " + target + " HTTP/1.1", "Host: " + address,
		"Connection: close"}, header...)
	if body != "" {
		lines = append(lines, fmt.Sprint("Content-Length: ", len(body)))
	}
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Header
}
