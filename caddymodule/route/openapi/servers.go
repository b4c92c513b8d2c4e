package openapi

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// bases returns the base paths of a list of servers, without duplicates. It returns inherited if
// there is no list. Hosts are ignored, because a document often names those of another deployment.
func (r *reader) bases(servers node, inherited []string) ([]string, error) {
	if servers.Node == nil {
		return inherited, nil
	}
	list, err := servers.elements("servers")
	if err != nil {
		return nil, err
	}
	var bases []string
	for _, server := range list {
		f, err := r.fields(server)
		if err != nil {
			return nil, err
		}
		paths, err := r.expand(f)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			base, err := basePath(path)
			if err != nil {
				return nil, server.errorf("server %q: %w", path, err)
			}
			if !slices.Contains(bases, base) {
				bases = append(bases, base)
			}
			if len(bases) > maxBases {
				return nil, servers.errorf("servers must have at most %d different paths", maxBases)
			}
		}
	}
	if len(bases) == 0 {
		return []string{""}, nil // OpenAPI 3.1 §4.8.1: an empty list means one server at /
	}
	return bases, nil
}

// maxBases limits the number of base paths. The variables of a server can multiply them.
const maxBases = 100

// expand returns the URLs of a server, one for each combination of the values of its variables. The
// URLs begin at the path.
func (r *reader) expand(server fields) ([]string, error) {
	at := server["url"]
	paths := []string{pathOf(at.text())}
	variables, err := r.fields(server["variables"])
	if err != nil {
		return nil, err
	}
	for _, name := range variables.inOrder() {
		placeholder := "{" + name + "}"
		if !strings.Contains(paths[0], placeholder) {
			continue
		}
		values, err := r.values(variables[name])
		if err != nil {
			return nil, err
		}
		var more []string
		for _, path := range paths {
			for _, value := range values {
				more = append(more, strings.ReplaceAll(path, placeholder, value))
			}
		}
		if paths = more; len(paths) > maxBases {
			return nil, at.errorf("a server must have at most %d paths", maxBases)
		}
	}
	return paths, nil
}

// values returns the default of a variable and the values that it lists.
func (r *reader) values(variable node) ([]string, error) {
	f, err := r.fields(variable)
	if err != nil {
		return nil, err
	}
	values := []string{f["default"].text()}
	if f["enum"].Node != nil {
		list, err := f["enum"].elements("enum")
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if !slices.Contains(values, n.text()) {
				values = append(values, n.text())
			}
			if len(values) > maxBases {
				break // expand returns the error
			}
		}
	}
	return values, nil
}

// pathOf returns a server's URL from the path on. It does not use net/url, because variables make
// the URL invalid.
func pathOf(address string) string {
	_, rest, absolute := strings.Cut(address, "://")
	if !absolute {
		if rest, absolute = strings.CutPrefix(address, "//"); !absolute {
			return address
		}
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		return rest[i:]
	}
	return ""
}

// basePath returns the decoded base path for the URL of a server from the path on.
func basePath(text string) (string, error) {
	text = strings.TrimRight(text, "/")
	switch {
	case text == "":
		return "", nil
	case strings.ContainsAny(text, "?#"):
		return "", errors.New("must not have a query or a fragment")
	case text[0] != '/':
		return "", errors.New("a relative URL depends on the address of the document, which is " +
			"unknown: give the base path, as in `openapi FILE /v1`")
	case strings.Contains(strings.ToLower(text), "%2f"):
		return "", errors.New("must not have an encoded slash")
	case strings.ContainsAny(text, "{}"):
		return "", errors.New("every variable must have a value")
	}
	return unescape(text)
}

// unescape decodes the percent-encoding of a path.
func unescape(text string) (string, error) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return "", errors.New("invalid percent-encoding")
	}
	return plain, nil
}
