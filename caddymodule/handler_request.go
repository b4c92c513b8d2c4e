package caddymodule

import (
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/node"
)

// request is the state that all api_key handlers of one request share. The first one creates it. It
// contains no credential that logs or placeholders could show. Logs read it after the handlers have
// returned, so it is not pooled.
type request struct {
	trusted      bool           // whether the peer is a trusted proxy
	vars         map[string]any // Caddy's variables of the request
	bracketed    string         // the client's address: see readBrackets
	namespaceID  string         // of the accessed namespace, which need not exist
	policy       *keystore.Directory
	namespace    *keystore.Namespace
	record       *keystore.Record    // of the credential, even if it was refused
	narrowing    *keystore.Narrowing // of a derived token
	outcome      keystore.Outcome
	decided      bool  // whether outcome is set
	limits       int   // that refused the request or would have, in shadow: a set of 1<<LimitName
	units        int64 // charged to the limits of the key so far; 0 before the first charge
	repl         *caddy.Replacer
	adminHeaders http.Header // removed headers with credentials, restored for api_keys_admin

	// What usage counts: see countDecision.
	counted    bool
	countedAs  keystore.Outcome
	permission string // that the request needs
	transfer   transfer

	// values is an array for a headerSetter: the identity headers of the request, or the headers of
	// a refusal.
	values      [numIdentityHeaders]string
	valuesTaken bool
}

// requestVar is the request variable that holds the shared state.
const requestVar = "api_key.request"

// request returns the shared state of r. It creates it if h is the first handler.
func (h *Handler) request(r *http.Request) *request {
	ctx := r.Context()
	vars, _ := ctx.Value(caddyhttp.VarsCtxKey).(map[string]any)
	if req, ok := vars[requestVar].(*request); ok {
		maps.Copy(r.Header, req.adminHeaders)
		req.adminHeaders = nil
		return req
	}
	req := &request{vars: vars}
	if vars == nil {
		return req
	}
	req.trusted, _ = vars[caddyhttp.TrustedProxyVarKey].(bool)
	if req.trusted {
		req.readBrackets(r)
	}
	vars[requestVar] = req
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Map(req.placeholder)
		req.repl = repl
	}
	if h.accessLogs {
		if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
			extra.Add(zap.Inline(req))
		}
	}
	return req
}

// readBrackets determines the client's address again if a trusted proxy writes IPv6 addresses in
// brackets, such as `[2001:db8::1]`. Caddy skips these unless a port follows.
func (req *request) readBrackets(r *http.Request) {
	server, _ := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if server == nil {
		return
	}
	bracketed := func(name string) bool {
		return slices.ContainsFunc(r.Header.Values(name),
			func(line string) bool { return strings.Contains(line, "[") })
	}
	if !slices.ContainsFunc(server.ClientIPHeaders, bracketed) {
		return
	}
	header := make(http.Header)
	for _, name := range server.ClientIPHeaders {
		for address := range strings.SplitSeq(strings.Join(r.Header.Values(name), ","), ",") {
			address = strings.TrimSpace(address)
			if strings.HasPrefix(address, "[") && strings.HasSuffix(address, "]") {
				address = address[1 : len(address)-1]
			}
			header.Add(name, address)
		}
	}
	again := &http.Request{RemoteAddr: r.RemoteAddr, Header: header, URL: new(url.URL)}
	again = caddyhttp.PrepareRequest(again, caddy.NewEmptyReplacer(), nil, server)
	req.bracketed, _ = caddyhttp.GetVar(again.Context(), caddyhttp.ClientIPVarKey).(string)
}

// setOutcome records the decision of a handler.
func (req *request) setOutcome(c *call, outcome keystore.Outcome) {
	req.namespaceID, req.policy, req.namespace = c.namespaceID, c.policy, c.namespace
	req.record, req.outcome, req.decided = c.record, outcome, true
	req.narrowing = c.answer.Narrowing
	if outcome == keystore.OK && req.repl != nil {
		req.repl.Delete(userPlaceholder) // a value set by basic_auth would take precedence
	}
}

// takeValues returns the array for a headerSetter once, and afterwards nil.
func (req *request) takeValues() []string {
	if req.valuesTaken {
		return nil
	}
	req.valuesTaken = true
	return req.values[:0]
}

// userPlaceholder is the placeholder in which Caddy's authentication handlers store the user.
const userPlaceholder = "http.auth.user.id"

func (req *request) keyID() string {
	if req.record == nil {
		return ""
	}
	return req.record.KeyID
}

// note returns the note of a derived token.
func (req *request) note() string {
	if req.narrowing == nil {
		return ""
	}
	return req.narrowing.Note
}

// String returns the key's id. Caddy calls it for `{http.vars.api_key.request}`.
func (req *request) String() string { return req.keyID() }

// clientIP returns the client's address as determined by Caddy, or "" if it is unknown.
func (req *request) clientIP() string {
	if req.bracketed != "" {
		return req.bracketed
	}
	address, _ := req.vars[caddyhttp.ClientIPVarKey].(string)
	return address
}

// client returns the client's address, or the zero Addr if it is unknown.
func (req *request) client() netip.Addr {
	addr, _ := netip.ParseAddr(req.clientIP())
	return addr
}

// placeholder implements caddy.ReplacerFunc.
func (req *request) placeholder(key string) (any, bool) {
	if key == userPlaceholder {
		return req.keyID(), req.outcome == keystore.OK && req.record != nil
	}
	name, ok := strings.CutPrefix(key, "http.api_key.")
	if !ok {
		return nil, false
	}
	switch name {
	case "outcome":
		return req.outcome.String(), true
	case "namespace":
		return req.namespaceID, true
	case "id":
		return req.keyID(), true
	case "note":
		return req.note(), true
	case "name", "owner":
		switch {
		case req.record == nil:
			return "", true
		case name == "name":
			return req.record.Name, true
		}
		return req.record.Owner, true
	}
	return nil, false
}

// MarshalLogObject implements zapcore.ObjectMarshaler. It adds the fields of the access log.
func (req *request) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	if id := req.keyID(); id != "" {
		enc.AddString("api_key_id", id)
	}
	if req.namespaceID != "" {
		enc.AddString("api_key_namespace", req.namespaceID)
	}
	if note := req.note(); note != "" {
		enc.AddString("api_key_note", note)
	}
	enc.AddString("api_key_outcome", req.outcome.String())
	if req.limits != 0 {
		return enc.AddArray("api_key_limits", zapcore.ArrayMarshalerFunc(req.marshalLimits))
	}
	return nil
}

func (req *request) marshalLimits(enc zapcore.ArrayEncoder) error {
	for l := range node.LimitName(node.NumLimits) {
		if req.limits&(1<<l) != 0 {
			enc.AppendString(l.String())
		}
	}
	return nil
}
