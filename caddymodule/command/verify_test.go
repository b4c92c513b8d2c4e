package command

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

func TestVerifyCommand(t *testing.T) {
	code, needed := "insufficient_permission", "orders:write"
	s := serveCLI(t, map[string][]cliAnswer{"POST /verify": {
		{200, api.Verdict{Outcome: "ok", Status: 200, Needed: &needed, Key: &cliKey}},
		{200, api.Verdict{Outcome: "forbidden", Status: 403, Code: &code, Needed: &needed,
			Key: &cliKey}},
		{200, api.Verdict{Outcome: "unknown", Status: 401, Code: &code}},
		{200, api.Verdict{Outcome: "rotated", Status: 401, Code: &code, Key: &cliKey}},
		{200, api.Verdict{Outcome: "forbidden", Status: 403, Code: &code, Needed: &needed,
			Namespace: "acme", Key: &cliKey}},
		{200, api.Verdict{Outcome: "public", Status: 200}},
		problem(422, "invalid", "", api.FieldError{Field: "permission",
			Detail: "no request needs *"}),
	}})
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(cliToken), 0o600); err != nil {
		t.Fatal(err)
	}
	runs := []cliRun{
		s.run(cliToken+"\n", "verify", "--namespace", "acme", "--permission", "orders:write"),
		s.run("", "verify", "--token-file", file),
		s.run(cliToken, "verify"),
		s.run(cliToken, "verify"),
		s.run(cliToken, "verify", "--method", "PUT", "--path", "/v1/acme?x=1", "--host", "a.test"),
		s.run(cliToken, "verify", "--path", "/open"),
		s.run(cliToken, "verify", "--permission", "*"),
	}
	runs[0].want(t, 0, "ok\n", "It is a token of key "+cliID+" (CI) in namespace acme.")
	runs[1].want(t, 1, "forbidden\n", "403 insufficient_permission",
		"Permission orders:write is required.")
	runs[2].want(t, 1, "unknown\n", "401")
	runs[3].want(t, 1, "rotated\n", "It was a token of key "+cliID+" (CI)", "401")
	runs[4].want(t, 1, "forbidden\n", "Permission orders:write in namespace acme is required.")
	runs[5].want(t, 0, "public\n", "needs no key")
	runs[6].want(t, 1, "", "Error: permission: no request needs *")
	for _, r := range runs {
		noToken(t, r.out, r.err)
	}
	if body := s.requests()[0].body; body != `{"token":"`+cliToken+
		`","namespace":"acme","permission":"orders:write"}` {
		t.Error("the first request has another body")
	}

	if body := s.requests()[4].body; body != `{"token":"`+cliToken+
		`","method":"PUT","path":"/v1/acme?x=1","host":"a.test"}` {
		t.Error("the fifth request has another body")
	}

	// With --server there are two tokens: one authenticates, the other is verified.
	serverToken := "ak_serverAAAAAA0000"
	if err := os.WriteFile(file, []byte(serverToken), 0o600); err != nil {
		t.Fatal(err)
	}
	s = serveCLI(t, map[string][]cliAnswer{"POST /verify": {{200,
		api.Verdict{Outcome: "ok", Status: 200}}}})
	runCLI(cliToken, "verify", "--server", "http://"+s.address, "--token-file", file).want(t, 0,
		"ok\n")
	if call := s.requests()[0]; call.body != `{"token":"`+cliToken+`"}` ||
		call.header.Get("Authorization") != "Bearer "+serverToken {
		t.Error("the tokens are mixed up")
	}
}

// TestCommandMemberToken checks that the token of a member is recognized.
func TestCommandMemberToken(t *testing.T) {
	code := "invalid_key"
	s := serveCLI(t, map[string][]cliAnswer{"POST /verify": {
		{200, api.Verdict{Outcome: "malformed", Status: 401, Code: &code}}}})
	token := keystore.NewTokenKey([32]byte{}).Generate(keystore.MemberPrefix, cliID).Reveal()
	for _, scheme := range []string{"", "secret-token:"} {
		s.run(scheme+token, "verify").want(t, 1, "malformed\n", "audit list --json --object "+cliID)
		s.run(scheme+token, "keys", "revoke", "-", "--yes").want(t, 1, "",
			"Error: key not found: no key has this token\nIt has the form of a member's token")
	}
}
