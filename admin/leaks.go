package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

const leaksPath = api.Prefix + "/leaks"

func (a *API) registerLeaks() {
	add(a, huma.Operation{
		OperationID: "report-leaks", Method: http.MethodPost, Path: leaksPath,
		Summary: "Report leaked tokens", Tags: []string{"leaks"},
		Description: "Applies on_leak of the namespaces to the keys of leaked tokens, and " +
			"answers when this is in force on every node. The format is that of GitHub's secret " +
			"scanning partner program. No authentication is required: anyone who has a token " +
			"could use it. A signature, if there is one, must be valid.",
		RequestBody: jsonBody(true, api.JSON),
	}, a.reportLeaks, judges)
}

type leaksInput struct {
	KeyID     string `header:"Github-Public-Key-Identifier" doc:"The key of leak_keys that has signed the body"`
	Signature string `header:"Github-Public-Key-Signature" doc:"ECDSA with P-256 and SHA-256 of the body, DER in base64"`
	RawBody   []byte
	Body      leakReports `maxItems:"100"`
}

// leakReports are judged one by one: an invalid one must not hide the live tokens of others. An
// entry that is not a report counts as a report without a token. The list is nil if the text is not
// a list.
type leakReports []api.LeakReport

// UnmarshalJSON implements [json.Unmarshaler].
func (l *leakReports) UnmarshalJSON(text []byte) error {
	var entries []json.RawMessage
	_ = json.Unmarshal(text, &entries) // another value leaves no entries
	if entries == nil {
		return nil
	}
	*l = make(leakReports, len(entries))
	for i, entry := range entries {
		_ = json.Unmarshal(entry, &(*l)[i]) // fields of another type stay empty
	}
	return nil
}

// check refuses a body that holds no report at all, or too many.
func (l leakReports) check() error {
	var wrong fields
	switch {
	case l == nil || len(l) > manage.MaxLeaks:
		wrong.addNew("body", fmt.Sprintf("must be a list of at most %d reports", manage.MaxLeaks))
	case len(l) > 0 && !slices.ContainsFunc(l, func(r api.LeakReport) bool { return r.Token != "" }):
		wrong.addNew("token", "is required")
	}
	return wrong.err()
}

func (a *API) reportLeaks(ctx context.Context, in *leaksInput) (*page[[]api.LeakLabel], error) {
	if a.keys == nil {
		return nil, newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			a.notReached())
	}
	signed := in.KeyID != "" || in.Signature != ""
	if signed {
		if err := a.leakKeys.Load().verify(ctx, in.KeyID, in.Signature, in.RawBody); err != nil {
			return nil, err
		}
	}
	if err := in.Body.check(); err != nil {
		return nil, err
	}
	reports := make([]manage.LeakReport, len(in.Body))
	for i, r := range in.Body {
		reports[i] = manage.LeakReport{Token: r.Token, URL: r.URL, Source: r.Source, Type: r.Type}
	}
	known, p, err := a.keys.ReportLeaks(ctx, callerOf(ctx), signed, reports)
	if err != nil {
		return nil, err
	}
	if !p.Complete {
		return nil, newProblem(http.StatusServiceUnavailable, keystore.Unavailable.Code(),
			"some nodes may still accept a reported token; report it again to wait for them")
	}
	labels := make([]api.LeakLabel, len(in.Body))
	for i, r := range in.Body {
		sum := sha256.Sum256([]byte(r.Token))
		labels[i] = api.LeakLabel{TokenHash: hex.EncodeToString(sum[:]), TokenType: r.Type,
			Label: "false_positive"}
		if keystore.ContainsToken(r.Type) || r.Token != "" && strings.Contains(r.Type, r.Token) {
			labels[i].TokenType = "" // no answer repeats a token
		}
		if known[i] {
			labels[i].Label = "true_positive"
		}
	}
	return &page[[]api.LeakLabel]{labels}, nil
}
