package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

const hidden = "hunter2"

var (
	hiddenToken       = hiddenWith("ak")
	hiddenMemberToken = hiddenWith(keystore.MemberPrefix)
)

func hiddenWith(prefix string) string {
	return keystore.NewTokenKey([32]byte{1}).Generate(prefix, keystore.NewID()).Reveal()
}

// secretArguments are arguments with secrets, as `{$VAR}` may expand to.
var secretArguments = []string{
	"postgresql://u:" + hidden + "@h/db",
	"redis://:" + hidden + "@h",
	"mysql://u:" + hidden + "@h/db?a=b",
	"https://h/?password=" + hidden,
	"x/https://h/" + hidden,
	"/https://h//" + hidden,
	"{https://h/" + hidden,
	"u:" + hidden + "@h:5432",
	"/" + hidden + "@h//x",
	`"postgres://u:\"` + hidden + ` x@h/db"`,
	`"host=h Password=` + hidden + `"`,
	strings.Repeat("0123abcd", 8),
	hiddenToken,
	hiddenMemberToken,
	"/" + hiddenToken + "//x",
}

// optionLines are valid lines for every option, by the directive.
var optionLines = map[string]map[string][]string{
	"api_keys": {
		"database":       {"database sqlite /tmp/a.db", "database postgres postgres://u@h/db"},
		"cache":          {"cache redis redis://h"},
		"local_cache":    {"local_cache 10 16MiB"},
		"lease":          {"lease 10s"},
		"token_prefix":   {"token_prefix ak ak_old", "token_prefix ak ak"},
		"abandon_prefix": {"abandon_prefix old older", "abandon_prefix old old"},
		"token_key":      {"token_key " + strings.Repeat("ab", 32)},
		"capacity":       {"capacity {\nroles 2 1\ndirectory 2MiB 1MiB\nkeys_per_owner 1\n}"},
		"request_memory": {"request_memory 16MiB"},
		"abuse":          {"abuse 20/1m"},
		"usage":          {"usage off", "usage {\nminutes 48h\nhours 35d\n}"},
		"derive":         {"derive off", "derive max 24h"},
		"remind":         {"remind 30d 7d", "remind off"},
		"unused":         {"unused 90d"},
		"leak_keys":      {"leak_keys https://h/keys", "leak_keys /tmp/keys.json"},
		"webhook": {"webhook https://h/keys {\nsecret whsec_" + strings.Repeat("AAAA", 8) +
			"\nevents key.*\nnamespace acme\nallow_private\n}"},
	},
	"api_key": {
		"from": {"from header X-Key Token", "from query key", "from cookie key",
			"from basic", "from bearer"},
		"namespace_path": {"namespace_path /v1/{namespace}/** /v2/{namespace}"},
		"namespace":      {"namespace acme"},
		"resource":       {"resource orders"},
		"methods":        {"methods write MKCOL COPY"},
		"operation": {"operation orders:search read POST /v1/orders/search",
			"operation orders:search read POST /v1/orders/search {\ncost 10\n}"},
		"openapi":         {"openapi DOCUMENT /v1", "openapi DOCUMENT {\nskip_unsupported\n}"},
		"also_judge":      {"also_judge read X-A X-B", "also_judge X-A X-A"},
		"strict":          {"strict"},
		"list":            {"list GET /v1/apps app {\nitems data.x\nid id\n}"},
		"public":          {"public /health /docs/*"},
		"optional":        {"optional"},
		"preflight":       {"preflight https://a.example"},
		"identity":        {"identity id"},
		"pass_metadata":   {"pass_metadata team site"},
		"foreign":         {"foreign pass"},
		"encoded_slash":   {"encoded_slash allow"},
		"pass_credential": {"pass_credential"},
		"charge":          {"charge X-Units"},
		"limit_headers":   {"limit_headers off"},
		"errors":          {"errors caddy"},
		"realm":           {"realm acme"},
		"forwarded":       {"forwarded nginx"},
	},
	"api_keys_admin": {"trust_user": {"trust_user {http.auth.user.id}"},
		"trust_groups": {"trust_user {http.auth.user.id}\ntrust_groups {http.auth.user.groups}"},
		"realm":        {"realm acme"}},
	"log": {"wrap": {"wrap json"}},
}

// withArgument returns variants of a line with the argument in place of each word, before it and
// after it.
func withArgument(line, argument string) (lines []string) {
	words := strings.Split(line, " ")
	for i := range words {
		with := func(from int) string {
			return strings.Join(slices.Concat(words[:i], []string{argument}, words[from:]), " ")
		}
		lines = append(lines, with(i), with(i+1))
		// Also as the first word of the next line.
		if head, after, block := strings.Cut(words[i], "\n"); block {
			lines = append(lines,
				strings.Join(slices.Concat(words[:i], []string{argument + "\n" + after},
					words[i+1:]), " "),
				strings.Join(slices.Concat(words[:i], []string{head + "\n" + argument},
					words[i+1:]), " "))
		}
	}
	return append(lines, line+" "+argument, line+"\n"+argument, line+"\n"+line)
}

// TestErrorsShowNoPassword puts secrets in the place of every argument.
func TestErrorsShowNoPassword(t *testing.T) {
	document := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(document, []byte("openapi: 3.0.0\npaths: {/a: {get: {}}}"),
		0o600); err != nil {
		t.Fatal(err)
	}
	for directive, words := range map[string][]string{
		"api_keys": slices.Collect(maps.Keys(appOptions)), "api_key": handlerOptions,
	} {
		for _, word := range words {
			if optionLines[directive][word] == nil {
				t.Errorf("no line of %s for %s", directive, word)
			}
		}
	}
	refused := 0
	for directive, options := range optionLines {
		lines := []string{""}
		for _, more := range options {
			lines = append(lines, more...)
		}
		for _, argument := range secretArguments {
			for _, line := range lines {
				line = strings.ReplaceAll(line, "DOCUMENT", document)
				for _, text := range withArgument(line, argument) {
					var file string
					switch directive {
					case "api_keys":
						file = "{\nadmin off\napi_keys {\n" + text + "\n}\n}\n"
					case "api_key":
						file = ":8080\napi_key {\n" + text + "\n}\n"
					case "log":
						file = ":8080\nlog {\nformat api_keys {\n" + text + "\n}\n}\n"
					default:
						file = ":8080\n" + directive + " {\n" + text + "\n}\n"
					}
					if strings.HasPrefix(text, "wrap json ") {
						continue // the wrapped encoder parses what follows its name
					}
					err := adaptAndValidate(file)
					if err == nil {
						continue
					}
					refused++
					if showsSecret(err) {
						t.Errorf("%s\n%v", text, err)
					}
				}
				file := ":8080\n" + directive + " " + argument + "\n"
				if directive == "api_keys" {
					file = "{\napi_keys " + argument + "\n}\n"
				}
				if err := adaptAndValidate(file); showsSecret(err) {
					t.Errorf("%s\n%v", file, err)
				}
			}
		}
	}
	if refused < 1000 {
		t.Errorf("only %d lines were refused", refused)
	}
}

func showsSecret(err error) bool {
	return err != nil && slices.ContainsFunc(
		[]string{hidden, hiddenToken, hiddenMemberToken, "0123abcd"},
		func(secret string) bool { return strings.Contains(err.Error(), secret) })
}

// adaptAndValidate adapts and validates a Caddyfile.
func adaptAndValidate(text string) error {
	encoded, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text),
		map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	var config caddy.Config
	if err := json.Unmarshal(encoded, &config); err != nil {
		return err
	}
	config.Admin = &caddy.AdminConfig{Disabled: true}
	return caddy.Validate(&config)
}

// TestJSONErrorsShowNoPassword does the same for JSON, in which a template may have expanded any
// text.
func TestJSONErrorsShowNoPassword(t *testing.T) {
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	for _, argument := range secretArguments {
		argument = strings.NewReplacer(`\"`, `"`, `"`, "").Replace(argument)
		quoted, err := json.Marshal(argument)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{
			`{"database":{"type":%s}}`, `{"database":{"path":%s}}`,
			`{"database":{"type":"postgres","url":%s}}`, `{"database":{"url":%s}}`,
			`{"cache":{"type":%s}}`, `{"cache":{"url":%s}}`, `{"token_prefix":[%s]}`,
			`{"token_prefix":[%[1]s,%[1]s]}`,
			`{"abandon_prefix":[%s]}`, `{"abandon_prefix":[%[1]s,%[1]s]}`,
		} {
			text = fmt.Sprintf(text, quoted)
			a := new(App)
			if err := json.Unmarshal([]byte(text), a); err != nil {
				t.Fatal(err)
			}
			if err := a.Provision(ctx); showsSecret(err) {
				t.Errorf("%s\n%v", text, err)
			}
		}
		for _, text := range []string{
			`{"from":[{"type":%s}]}`, `{"from":[{"type":"bearer","name":%s}]}`,
			`{"from":[{"type":"query","name":"x","scheme":%s}]}`,
			`{"from":[{"type":"query","name":%[1]s},{"type":"query","name":%[1]s}]}`,
			`{"from":[{"type":"header","name":%s}]}`,
			`{"namespace_path":[%s]}`, `{"namespace":%s}`, `{"resource":%s}`,
			`{"methods":{%s:"read"}}`, `{"methods":{"A":%s}}`,
			`{"operation":[{"permission":%s}]}`, `{"operation":[{"permission":"a:b","class":%s}]}`,
			`{"operation":[{"permission":"a:b","class":"read","method":%s}]}`,
			`{"operation":[{"permission":"a:b","class":"read","method":"GET","path":%s}]}`,
			`{"openapi":[{"file":%s}]}`, `{"list":[{"method":%s}]}`,
			`{"list":[{"method":"GET","path":%s}]}`,
			`{"list":[{"method":"GET","path":"/a","kind":"k","items":%s}]}`,
			`{"list":[{"method":"GET","path":%[1]s,"kind":"k","id":%[1]s}]}`,
			`{"public":[%s]}`, `{"preflight":{"origins":[%s]}}`, `{"pass_metadata":[%s]}`,
			`{"pass_metadata":[%[1]s,%[1]s]}`, `{"identity":[%s]}`,
			`{"also_judge":[{"header":%s}]}`, `{"also_judge":[{"header":"X-A","class":%s}]}`,
			`{"foreign":%s}`, `{"encoded_slash":%s}`, `{"errors":%s}`, `{"forwarded":%s}`,
		} {
			text = fmt.Sprintf(text, quoted)
			h := new(Handler)
			if err := json.Unmarshal([]byte(text), h); err != nil {
				t.Fatal(err)
			}
			if _, err := h.compile(); showsSecret(err) {
				t.Errorf("%s\n%v", text, err)
			}
		}
		if err := (&AdminSite{TrustUser: argument}).compile(); err == nil || showsSecret(err) {
			t.Error(err)
		}
	}
}
