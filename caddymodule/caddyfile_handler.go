package caddymodule

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route"
	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/route/openapi"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("api_key", parseHandler)
	httpcaddyfile.RegisterDirectiveOrder("api_key", httpcaddyfile.After, "basic_auth")
}

func parseHandler(helper httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h := new(Handler)
	var err error
	if h.expected, err = expectedBy(helper); err != nil {
		return nil, err
	}
	return h, h.UnmarshalCaddyfile(helper.Dispenser)
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. It compiles the configuration after
// each option, so that an error names the option's line. Provision compiles it again.
// Syntax:
//
//	api_key [<matcher>] {
//	    from bearer | header <name> [<scheme>] | basic | query <name> | cookie <name>
//	    namespace_path <pattern...>
//	    namespace <id> | <placeholder> | home
//	    resource <name>
//	    methods read | write | none <method...>
//	    operation <resource>:<operation> read | write <method> <pattern> {
//	        cost <units>
//	    }
//	    openapi <file> [<base>] {
//	        skip_unsupported
//	    }
//	    also_judge [read | write] <header...>
//	    strict
//	    list <method> <pattern> <kind> {
//	        items <name>[.<name>...]
//	        id    <name>[.<name>...]
//	    }
//	    public <pattern...>
//	    optional
//	    preflight [<origin...>]
//	    identity none | <word...>
//	    pass_metadata <name...>
//	    foreign pass
//	    encoded_slash allow
//	    pass_credential
//	    charge <header>
//	    limit_headers off
//	    errors caddy
//	    realm <text>
//	    forwarded [nginx]
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // directive name
	if d.NextArg() {
		return d.Errf("api_key: unexpected argument %q: put options in a block",
			redact.Argument(d.Val()))
	}
	var pending, located error
	for d.NextBlock(0) {
		if err := h.unmarshalOption(d); err != nil {
			return err
		}
		// `strict` or an operation may precede a line that it requires, so such an error waits
		// until the end.
		switch _, err := h.compile(); {
		case err == nil:
			pending, located = nil, nil
		case !errors.As(err, new(route.Incomplete)):
			return d.WrapErr(err)
		case pending == nil || pending.Error() != err.Error():
			pending, located = err, d.WrapErr(err)
		}
	}
	return located
}

// handlerOptions lists the options in the order of the documentation.
var handlerOptions = strings.Fields("from namespace_path namespace resource methods operation " +
	"openapi also_judge strict list public optional preflight identity pass_metadata foreign " +
	"encoded_slash pass_credential charge limit_headers errors realm forwarded")

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser) error {
	option, args := d.Val(), d.RemainingArgs()
	if !slices.Contains(handlerOptions, option) {
		return d.Errf("unknown option %q in api_key: must be one of %s", redact.Argument(option),
			strings.Join(handlerOptions, ", "))
	}
	switch option { // those with a block
	case "list":
		return h.unmarshalList(d, args)
	case "openapi":
		return h.unmarshalOpenAPI(d, args)
	case "operation":
		return h.unmarshalOperation(d, args)
	}
	if d.NextBlock(1) {
		return d.Errf("%s accepts no block", option)
	}
	switch option {
	case "from":
		return h.unmarshalFrom(d, args)
	case "namespace_path":
		return appendArgs(d, option, "path patterns with a segment {namespace}",
			"/v1/{namespace}/**", &h.NamespacePath, args)
	case "namespace":
		return setArg(d, option, &h.Namespace, args)
	case "resource":
		return setArg(d, option, &h.Resource, args)
	case "methods":
		return h.unmarshalMethods(d, args)
	case "also_judge":
		return h.unmarshalAlsoJudge(d, args)
	case "strict":
		return setFlag(d, option, &h.Strict, args)
	case "public":
		return appendArgs(d, option, "path patterns", "/health /docs/*", &h.Public, args)
	case "optional":
		return setFlag(d, option, &h.Optional, args)
	case "preflight":
		if h.Preflight != nil {
			return d.Err("preflight is given twice: name all origins on one line")
		}
		h.Preflight = &Preflight{Origins: args}
	case "identity":
		return appendArgs(d, option, identityWords, "id namespace", &h.Identity, args)
	case "pass_metadata":
		return appendArgs(d, option, "names of metadata", "team", &h.PassMetadata, args)
	case "foreign":
		return setArg(d, option, &h.Foreign, args)
	case "encoded_slash":
		return setArg(d, option, &h.EncodedSlash, args)
	case "pass_credential":
		return setFlag(d, option, &h.PassCredential, args)
	case "charge":
		return setArg(d, option, &h.Charge, args)
	case "limit_headers":
		return setArg(d, option, &h.LimitHeaders, args)
	case "errors":
		return setArg(d, option, &h.Errors, args)
	case "realm":
		return setArg(d, option, &h.Realm, args)
	case "forwarded":
		if len(args) == 0 {
			args = []string{forwardedPlain}
		} else if args[0] == forwardedPlain {
			return d.Errf("forwarded: unknown value %q: must be nginx or left out",
				redact.Argument(args[0]))
		}
		return setArg(d, option, &h.Forwarded, args)
	}
	return nil
}

func (h *Handler) unmarshalFrom(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 {
		return d.Errf("from requires a source: %s", sourceSyntax)
	}
	source := CredentialSource{Type: args[0]}
	limit := map[string]int{"bearer": 1, "basic": 1, "query": 2, "cookie": 2,
		"header": 3}[source.Type]
	if limit > 0 && len(args) > limit {
		return d.Errf("from %s: unexpected argument %q: the sources are %s, each on its own line",
			source.Type, redact.Argument(strings.Join(args[limit:], " ")), sourceSyntax)
	}
	if len(args) > 1 {
		source.Name = args[1]
	}
	if len(args) > 2 {
		source.Scheme = args[2]
	}
	h.From = append(h.From, source)
	return nil
}

func (h *Handler) unmarshalMethods(d *caddyfile.Dispenser, args []string) error {
	if len(args) < 2 {
		return d.Err("methods requires read, write or none, and one or more methods, such as " +
			"`methods write MKCOL`")
	}
	if h.Methods == nil {
		h.Methods = make(map[string]string)
	}
	for _, method := range args[1:] {
		if earlier, ok := h.Methods[method]; ok {
			return d.Errf("methods: %s is given twice, as %s and %s", redact.Argument(method),
				redact.Argument(earlier), redact.Argument(args[0]))
		}
		h.Methods[method] = args[0]
	}
	return nil
}

func (h *Handler) unmarshalOperation(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 4 {
		return d.Errf("operation requires RESOURCE:OPERATION, read or write, METHOD and PATH, "+
			"such as `operation orders:search read POST /v1/orders/search`, not %d arguments",
			len(args))
	}
	o := route.Operation{Permission: args[0], Class: args[1], Method: args[2], Path: args[3]}
	for d.NextBlock(1) {
		option, args := d.Val(), d.RemainingArgs()
		switch {
		case option != "cost":
			return d.Errf("unknown option %q in operation: must be cost", redact.Argument(option))
		case o.Cost != 0:
			return d.Err("cost is given twice")
		case len(args) == 1:
			o.Cost, _ = parseCount(args[0])
		}
		if len(args) != 1 || !openapi.ValidCost(o.Cost) {
			return d.Errf("cost %s: must be one number of units from 1 to %d",
				redact.Argument(strings.Join(args, " ")), openapi.MaxCost)
		}
	}
	h.Operation = append(h.Operation, o)
	return nil
}

func (h *Handler) unmarshalAlsoJudge(d *caddyfile.Dispenser, args []string) error {
	class := ""
	if len(args) > 0 && (args[0] == "read" || args[0] == "write") {
		class, args = args[0], args[1:]
	}
	if len(args) == 0 {
		return d.Err("also_judge requires header names, optionally after read or write, such as " +
			"`also_judge read X-Amz-Copy-Source`")
	}
	for _, name := range args {
		h.AlsoJudge = append(h.AlsoJudge, JudgedHeader{Header: name, Class: class})
	}
	return nil
}

func (h *Handler) unmarshalList(d *caddyfile.Dispenser, args []string) error {
	if len(args) != 3 {
		return d.Errf("list requires METHOD, PATH and the KIND of the namespaces that the response "+
			"lists, such as `list GET /v1/workspaces workspace`, not %d arguments", len(args))
	}
	l := route.List{Method: args[0], Path: args[1], Kind: args[2]}
	for d.NextBlock(1) {
		option, args := d.Val(), d.RemainingArgs()
		field := map[string]*string{"items": &l.Items, "id": &l.ID}[option]
		if field == nil {
			return d.Errf("unknown option %q in list: must be items or id", redact.Argument(option))
		}
		if err := setArg(d, option, field, args); err != nil {
			return err
		}
	}
	h.List = append(h.List, l)
	return nil
}

// unmarshalOpenAPI reads the document, because only the adapter knows the line for an error.
func (h *Handler) unmarshalOpenAPI(d *caddyfile.Dispenser, args []string) error {
	if len(args) == 0 || len(args) > 2 || args[0] == "" {
		return d.Err("openapi requires a file, optionally with a base path, such as " +
			"`openapi ./openapi.yaml` or `openapi ./openapi.yaml /v1`")
	}
	if name, ok := strings.CutPrefix(args[0], "{env."); ok {
		return d.Errf("openapi: the document is read before %s is expanded: use {$%s", args[0],
			name)
	}
	o := route.OpenAPI{File: args[0]}
	if len(args) == 2 {
		if o.Base = args[1]; o.Base == "" {
			return d.Err("openapi: the base path must not be empty: use / for none, or leave it " +
				"out for the paths of the document's servers")
		}
	}
	if !filepath.IsAbs(o.File) && !strings.Contains(o.File, "://") { // as `import` does
		caddyfile, err := caddy.FastAbs(d.File())
		if err != nil {
			return d.Errf("openapi: finding the directory of the Caddyfile: %v", err)
		}
		o.File = filepath.Join(filepath.Dir(caddyfile), o.File)
	}
	unreadable := o.Read()
	if unreadable != nil {
		unreadable = d.WrapErr(unreadable) // before the block, so that it names this line
	}
	for d.NextBlock(1) {
		option, args := d.Val(), d.RemainingArgs()
		if option != "skip_unsupported" {
			return d.Errf("unknown option %q in openapi: must be skip_unsupported",
				redact.Argument(option))
		}
		if err := setFlag(d, option, &o.SkipUnsupported, args); err != nil {
			return err
		}
	}
	if unreadable != nil {
		return unreadable
	}
	o.SHA256 = o.Digest()
	h.OpenAPI = append(h.OpenAPI, o)
	return nil
}

// setArg sets a field to the option's only argument. It refuses a second one.
func setArg(d *caddyfile.Dispenser, option string, field *string, args []string) error {
	switch {
	case len(args) != 1 || args[0] == "":
		return d.Errf("%s requires one argument, not %d", option, len(args))
	case *field != "":
		return d.Errf("%s is given twice, as %q and %q", option, redact.Argument(*field),
			redact.Argument(args[0]))
	}
	*field = args[0]
	return nil
}

// appendArgs appends the option's arguments to a field. takes and example describe them in errors.
func appendArgs(
	d *caddyfile.Dispenser, option, takes, example string, field *[]string, args []string,
) error {
	if len(args) == 0 {
		return d.Errf("%s requires %s, such as `%s %s`", option, takes, option, example)
	}
	*field = append(*field, args...)
	return nil
}

// setFlag sets a field for an option without arguments.
func setFlag(d *caddyfile.Dispenser, option string, field *bool, args []string) error {
	if len(args) > 0 {
		return d.Errf("%s accepts no argument, not %q", option,
			redact.Argument(strings.Join(args, " ")))
	}
	if *field {
		return d.Errf("%s is given twice", option)
	}
	*field = true
	return nil
}

var _ caddyfile.Unmarshaler = (*Handler)(nil)
