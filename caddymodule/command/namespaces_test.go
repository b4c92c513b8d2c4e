package command

import (
	"strings"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

func TestNamespacesCommand(t *testing.T) {
	org := "org"
	acme := api.Namespace{ID: "acme", Parent: &org, Reach: []string{"workspace", "app"},
		Kind: "account", Name: "Acme Inc.", EditPolicy: "free", CreatedAt: time.Date(2026, 1, 2, 3,
			4, 5, 0, time.UTC), Version: 2, OnLeak: "notify"}
	s := serveCLI(t, map[string][]cliAnswer{
		"GET /namespaces":      {{200, api.Namespaces{Items: []api.Namespace{acme}}}},
		"GET /namespaces/acme": {{200, acme}},
		"POST /namespaces": {{201, acme},
			problem(409, "exists", "The namespace acme already exists.")},
		"PATCH /namespaces/acme": {{200,
			api.NamespaceChanged{Namespace: acme, Propagation: complete}}},
		"DELETE /namespaces/acme": {problem(409, "in_use", "The namespace has keys.")},
	})
	s.run("", "namespaces", "list").want(t, 0,
		"ID    KIND     NAME       EDIT POLICY  PARENT  CREATED\nacme  account  Acme Inc.  free   "+
			"      org     2026-01-02T03:04:05Z\n")
	s.run("", "namespaces", "list", "--limits").want(t, 0,
		"ID    KIND     NAME       EDIT POLICY  PARENT  CREATED               LIMITS\n"+
			"acme  account  Acme Inc.  free         org     2026-01-02T03:04:05Z  none\n")
	s.run("", "namespaces", "show", "acme").want(t, 0,
		"Id            acme\nKind          account\nParent        org\nName          Acme "+
			"Inc.\nEdit policy   free\nReach         workspace, app\n"+
			"Key roles     any\nToken prefix  the first of the configuration\nChild prefix  "+
			"none\nRate limit    none\nQuota         none\nDefault plan  none\nMax "+
			"lifetime  none\nIdle          the deployment decides\nOn leak       notify\nCreated "+
			"      2026-01-02T03:04:05Z\nVersion       2\n")
	s.run("", "namespaces", "create", "acme", "--kind", "account", "--name", "Acme Inc.",
		"--edit-policy", "grow_only").want(t, 0, "", "Created namespace acme.")
	s.run("", "namespaces", "create", "acme", "--parent", "org", "--reach", "workspace,app",
		"--key-role", "member", "--token-prefix", "ak_acme", "--child-prefix", "acme-").want(t, 1,
		"", "Error: The namespace acme already exists.")
	s.run("", "namespaces", "edit", "acme", "--name", "", "--if-version", "2").want(t, 0, "",
		"Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--no-parent", "--no-reach", "--key-role", "member",
		"--no-token-prefix", "--no-child-prefix").want(t, 0, "", "Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--any-key-roles").want(t, 0, "",
		"Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--default-plan", "gold", "--quota",
		"1000000/month").want(t, 0, "", "Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--no-default-plan", "--no-quota", "--rate",
		"100/1s").want(t, 0, "", "Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--max-lifetime", "90d", "--idle", "90d=inactivate",
		"--on-leak", "revoke").want(t, 0, "", "Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--no-max-lifetime", "--no-idle").want(t, 0, "",
		"Changed namespace acme.")
	s.run("", "namespaces", "edit", "acme", "--idle", "90d").want(t, 1, "",
		"--idle must be TIME=notify or TIME=inactivate")
	s.run("", "namespaces", "edit", "acme").want(t, 1, "", "nothing to change")
	s.run("", "namespaces", "delete", "acme", "--yes").want(t, 1, "", "The namespace has keys.")
	s.run("", "namespaces", "show", "../keys").want(t, 1, "", "a namespace's id must be")
	s.run("", "namespaces", "create", "home").want(t, 1, "", "home is reserved")
	var bodies []string
	for _, call := range s.requests() {
		if call.body != "" {
			bodies = append(bodies, call.body)
		}
	}
	if got := strings.Join(bodies,
		" "); got != `{"id":"acme","kind":"account","name":"Acme Inc.","edit_policy":"grow_only"} `+
		`{"id":"acme","parent":"org","reach":["workspace","app"],"key_roles":["member"],"token_prefix":"ak_acme","child_prefix":"acme-"} {"name":""} `+
		`{"parent":null,"reach":null,"key_roles":["member"],"token_prefix":null,"child_prefix":null} {"key_roles":null} `+
		`{"quota":{"requests":1000000,"per":"month"},"default_plan":"gold"} `+
		`{"rate_limit":{"requests":100,"per":"1s"},"quota":null,"default_plan":null} `+
		`{"max_lifetime":"90d","idle":{"after":"90d","then":"inactivate"},"on_leak":"revoke"} `+
		`{"max_lifetime":null,"idle":null}` {
		t.Errorf("sent %s", got)
	}
}
