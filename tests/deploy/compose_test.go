package deploy

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

var (
	hostPort   = regexp.MustCompile(`(?:^|@)([a-z0-9]+):[0-9]+`)
	secretPath = regexp.MustCompile(`/run/secrets/([a-z_.]+)`)
)

// composed loads compose.yaml, with the files that it refers to, as `docker compose config` does.
func composed(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{file(t, "compose.yaml")}, cli.WithEnv(nil))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

func TestCompose(t *testing.T) {
	t.Parallel()
	project := composed(t)
	made := secrets(t)
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	for name, secret := range project.Secrets {
		info, err := os.Stat(filepath.Join(made, filepath.Base(secret.File)))
		if err != nil || info.Mode().Perm() != 0o444 ||
			filepath.Dir(secret.File) != file(t, "secrets") {
			t.Errorf("make-secrets does not create %s readable for a container: %s, %v", name,
				secret.File, err)
		}
	}
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("other users can read the directory of the secrets: %v, %v", info, err)
	}

	published := map[string]bool{}
	for name, s := range project.Services {
		if !s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || len(s.CapAdd) > 0 ||
			s.Privileged || s.Restart != "unless-stopped" {
			t.Errorf("%s must be read-only, without capabilities, and restart", name)
		}
		if strings.HasPrefix(name, "gate") && s.Hostname != name {
			t.Errorf("%s has the host name %q, want its own name", name, s.Hostname)
		}
		if name != "api" && s.HealthCheck == nil {
			t.Errorf("%s has no health check", name)
		}
		if s.Build != nil {
			dockerfile := filepath.Join(s.Build.Context, s.Build.Dockerfile)
			if s.Build.Context != root || dockerfile != file(t, "Dockerfile") {
				t.Errorf("%s is built by %s in %s", name, dockerfile, s.Build.Context)
			}
		} else if !regexp.MustCompile(`:v?[0-9]+\.[0-9]+`).MatchString(s.Image) {
			t.Errorf("%s: the image %s has no version", name, s.Image)
		}
		for _, v := range s.Volumes {
			if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind &&
				(err != nil || !v.ReadOnly) {
				t.Errorf("%s mounts %s: %v", name, v.Source, err)
			}
		}
		for variable, value := range s.Environment {
			for host := range strings.FieldsSeq(*value) {
				if m := hostPort.FindStringSubmatch(host); m != nil {
					checkReach(t, project, name, m[1], variable)
				}
			}
			for _, path := range secretPath.FindAllStringSubmatch(*value, -1) {
				if !slices.ContainsFunc(s.Secrets,
					func(c types.ServiceSecretConfig) bool { return c.Source == path[1] }) {
					t.Errorf("%s: %s names a secret that is not mounted: %s", name, variable,
						path[0])
				}
			}
		}
		for _, p := range s.Ports {
			published[name+" "+p.HostIP] = true
		}
	}
	if len(published) != 2 || !published["balancer 127.0.0.1"] ||
		!published["prometheus 127.0.0.1"] {
		t.Errorf("only the balancer and Prometheus may publish ports, on this machine: %v",
			published)
	}
	for _, target := range regexp.MustCompile(`gate[0-9]`).FindAllString(text(t,
		file(t, "prometheus/prometheus.yml")), -1) {
		checkReach(t, project, "prometheus", target, "prometheus.yml")
	}
}

// checkReach checks that a service that another one names exists, and that they share a network.
func checkReach(t *testing.T, project *types.Project, from, to, where string) {
	t.Helper()
	other, there := project.Services[to]
	for network := range project.Services[from].Networks {
		if _, shared := other.Networks[network]; shared {
			return
		}
	}
	t.Errorf("%s names %s in %s, but cannot reach it (exists: %v)", from, to, where, there)
}

// TestComposeEnvironment checks that compose.yaml sets exactly the variables that the Caddyfiles
// use.
func TestComposeEnvironment(t *testing.T) {
	t.Parallel()
	project := composed(t)
	variable := regexp.MustCompile(`\{\$([A-Z_]+)(:[^}]*)?\}`)
	for service, caddyfile := range map[string]string{"balancer": "Caddyfile.balancer",
		"gate1": "Caddyfile", "gate2": "Caddyfile", "gate3": "Caddyfile"} {
		environment := project.Services[service].Environment
		used := map[string]bool{}
		content := text(t, file(t, caddyfile))
		head, _, _ := strings.Cut(content, "\n{\n")
		for _, v := range variable.FindAllStringSubmatch(content, -1) {
			used[v[1]] = true
			if !regexp.MustCompile(`(?m)^#\t(.*, )?` + v[1] + `\b`).MatchString(head) {
				t.Errorf("the comment at the top of %s does not describe %s", caddyfile, v[1])
			}
			if value := environment[v[1]]; v[2] == "" && (value == nil || *value == "") {
				t.Errorf("%s needs %s, which %s does not set", caddyfile, v[1], service)
			}
		}
		for name := range environment {
			if !used[name] {
				t.Errorf("%s sets %s, which %s does not use", service, name, caddyfile)
			}
		}
	}
}

// TestDockerfile checks what is possible without building an image: the version of Go, the build
// command, and that the build context has all directories.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	root, err := gate.Root()
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := text(t, file(t, "Dockerfile"))
	image := regexp.MustCompile(`ARG GO=golang:(1\.[0-9]+)\.[0-9]+`).FindStringSubmatch(dockerfile)
	module := regexp.MustCompile(`(?m)^go (1\.[0-9]+)`).FindStringSubmatch(text(t,
		filepath.Join(root, "go.mod")))
	if image == nil || module == nil || image[1] != module[1] {
		t.Errorf("the image builds with Go %v, go.mod requires %v", image, module)
	}
	for _, line := range []string{"-o /out/usr/bin/caddy ./cmd/caddy", "go build -trimpath ",
		"\nUSER 65532:65532\n", "\nHEALTHCHECK "} {
		if !strings.Contains(dockerfile, line) {
			t.Errorf("the Dockerfile lacks %q", line)
		}
	}

	var seen []string
	for line := range strings.Lines(text(t, file(t, "Dockerfile.dockerignore"))) {
		if path, allowed := strings.CutPrefix(strings.TrimSpace(line), "!"); allowed {
			seen = append(seen, path)
		}
	}
	list := exec.Command("go", "list", "-deps", "-f",
		`{{if and .Module .Module.Main}}{{.Dir}}{{end}}`, "./cmd/caddy")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dir := range bytes.Lines(out) {
		path, err := filepath.Rel(root, strings.TrimSpace(string(dir)))
		first, _, _ := strings.Cut(path, "/")
		if err != nil || first != "." && !slices.Contains(seen, first) {
			t.Errorf("the image is built without %s", path)
		}
	}
	for _, needed := range []string{"go.mod", "go.sum", "apikeys.go"} {
		if !slices.Contains(seen, needed) {
			t.Errorf("the image is built without %s", needed)
		}
	}
}
