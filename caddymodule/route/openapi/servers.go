package openapi

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// bases returns the paths of a list of servers, without repetition; others if there is no such
// list. Hosts do not count: the document's are often those of another deployment.
func (r *reader) bases(servers node, others []string) ([]string, error) {
	if servers.Node == nil {
		return others, nil
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
				return nil, server.errorf("the server %q: %w", path, err)
			}
			if !slices.Contains(bases, base) {
				bases = append(bases, base)
			}
			if len(bases) > maxBases {
				return nil, servers.errorf("the servers have more than %d paths", maxBases)
			}
		}
	}
	if len(bases) == 0 {
		return []string{""}, nil // OpenAPI 3.1 §4.8.1: no servers are one at /
	}
	return bases, nil
}

// maxBases bounds how many paths the variables of a server may make.
const maxBases = 100

// expand returns the URL of a server, from its path on, with every value of its variables.
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
			return nil, at.errorf("the server has more than %d paths", maxBases)
		}
	}
	return paths, nil
}

// values are the default of a variable and those that it lists.
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
				break // which expand refuses
			}
		}
	}
	return values, nil
}

// pathOf is a URL from its path on. The host may be a variable, so it is no URL yet.
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

func basePath(text string) (string, error) {
	text = strings.TrimRight(text, "/")
	switch {
	case text == "":
		return "", nil
	case strings.ContainsAny(text, "?#"):
		return "", errors.New("a server has no query and no fragment")
	case text[0] != '/':
		return "", errors.New("its path depends on where the document is served, which is not " +
			"known here: say what goes before the paths, as in `openapi FILE /v1`")
	case strings.Contains(strings.ToLower(text), "%2f"):
		return "", errors.New("it has an encoded slash")
	case strings.ContainsAny(text, "{}"):
		return "", errors.New("a variable of it has no value")
	}
	return unescape(text)
}

func unescape(text string) (string, error) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return "", errors.New("it has a percent sign that is no escape")
	}
	return plain, nil
}
