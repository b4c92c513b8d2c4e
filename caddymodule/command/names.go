package command

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// A naming finds the id of a key or member by its name or by the beginning of its id. T is an
// [api.Key] or [api.Member].
type naming[T any] struct {
	noun string // "key"
	// id returns the id if the word is one.
	id func(args []string) (string, error)
	// search lists candidates: at least those with the word as their name, or as the beginning of
	// their id.
	search func(server *client.Client, ctx context.Context, word string) iter.Seq2[T, error]
	name   func(T) string
	gone   func(T) bool // whether an object's name counts only if no other object has it
	// prefix begins the ids: "m_".
	prefix string
}

// minPrefix is the length of the shortest beginning of an id that names an object, without the
// prefix of all ids.
const minPrefix = 4

// maxCandidates is how many candidates an error lists.
const maxCandidates = 5

// maxName is the length of the longest word that is looked for as a name, unless it has a space. It
// is shorter than generated tokens, which must not reach the address of a request.
const maxName = 40

// check returns an error for a word that cannot be an id or a name, so that it is not sent: it may
// be a token.
func (n *naming[T]) check(word string) error {
	_, err := n.id([]string{word})
	if err != nil && (strings.TrimSpace(word) == "" || keystore.ContainsToken(word) ||
		len(word) > maxName && !strings.Contains(word, " ")) {
		return err
	}
	return nil
}

// find returns the id of the object that word names: by its id, by its name, or by a unique
// beginning of its id.
func (n *naming[T]) find(ctx context.Context, server *client.Client, word string) (string, error) {
	id, wrong := n.id([]string{word})
	if wrong == nil {
		return id, nil
	}
	if err := n.check(word); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var named, gone, begun []T
	for t, err := range n.search(server, ctx, word) {
		switch {
		case err != nil:
			return "", err
		case n.name(t) == word && n.gone(t):
			gone = append(gone, t)
		case n.name(t) == word:
			named = append(named, t)
		case len(strings.TrimPrefix(word, n.prefix)) >= minPrefix &&
			strings.HasPrefix(idOf(t), word):
			begun = append(begun, t)
		}
	}
	if len(named) == 0 && len(begun) == 0 {
		named = gone
	}
	found := append(named, begun...)
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s %w: none has this name, and %w", n.noun, errNotFound, wrong)
	case 1:
		return idOf(found[0]), nil
	}
	var list []string
	for _, t := range found[:min(len(found), maxCandidates)] {
		list = append(list, idOf(t)+" ("+n.name(t)+")")
	}
	if more := len(found) - len(list); more > 0 {
		list = append(list, fmt.Sprintf("and %d more", more))
	}
	return "", fmt.Errorf("several %ss match %q, give one id: %s", n.noun, word,
		strings.Join(list, ", "))
}

// keyNaming finds keys. A name means the key that is not revoked, if there is one.
var keyNaming = &naming[api.Key]{
	noun: "key", id: keyID,
	search: func(server *client.Client, ctx context.Context, word string) iter.Seq2[api.Key, error] {
		return server.AllKeys(ctx, client.KeyFilter{Text: word, Limit: maxPage})
	},
	name: func(k api.Key) string { return k.Name },
	gone: func(k api.Key) bool { return k.RevokedAt != nil },
}

// memberNaming finds members.
var memberNaming = &naming[api.Member]{
	noun: "member", id: memberID, prefix: "m_",
	search: func(server *client.Client, ctx context.Context, _ string) iter.Seq2[api.Member, error] {
		return server.AllMembers(ctx)
	},
	name: func(m api.Member) string { return m.Name },
	gone: func(api.Member) bool { return false },
}

// ownerNamed returns the id of the member that a flag names. It returns an empty word and root as
// they are.
func ownerNamed(ctx context.Context, server *client.Client, word string) (string, error) {
	if word == "" || word == keystore.RootMember {
		return word, nil
	}
	return memberNaming.find(ctx, server, word)
}

// fromToken is the argument that stands for a token on standard input.
const fromToken = "-"

// keyOfToken reads a token and returns the id of its key, whether the token is still valid or not.
func (c *cli) keyOfToken(ctx context.Context, server *client.Client) (string, error) {
	if c.server != "" && c.tokenFile == "" {
		return "", errors.New("standard input cannot have both tokens: give --token-file for that " +
			"of --server")
	}
	token, err := c.readToken(ctx, "", "Token of the key")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	verdict, err := server.Verify(ctx, api.VerifyRequest{Token: token})
	if err != nil {
		return "", err
	}
	if verdict.Key != nil {
		return verdict.Key.ID, nil
	}
	if advice := memberTokenAdvice(token); advice != "" {
		return "", fmt.Errorf("key %w: no key has this token\n%s", errNotFound, advice)
	}
	return "", fmt.Errorf("key %w: no key that you may read has this token", errNotFound)
}

// someIDs requires one or more arguments, the ids of objects.
func someIDs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return oneID(cmd, args)
	}
	return nil
}

// chosen connects and returns the ids of the objects that the arguments name.
func (o *objects[T, P, C]) chosen(
	ctx context.Context, args []string,
) (server *client.Client, ids []string, err error) {
	for i, word := range args {
		if err := o.check(word); err != nil {
			return nil, nil, argument(args, i, err)
		}
	}
	if server, err = o.cli.connect(ctx); err != nil {
		return nil, nil, err
	}
	for i, word := range args {
		id, err := o.named(ctx, server, word)
		if err != nil {
			return nil, nil, argument(args, i, err)
		}
		ids = append(ids, id)
	}
	return server, ids, nil
}

// argument says which of several arguments an error is about. It does not repeat the argument: it
// may be a token.
func argument(args []string, i int, err error) error {
	if len(args) > 1 {
		err = fmt.Errorf("argument %d: %w", i+1, err)
	}
	return err
}

// check returns an error for an argument that names no object.
func (o *objects[T, P, C]) check(word string) error {
	if o.tokens && word == fromToken {
		return nil
	}
	if o.naming != nil {
		return o.naming.check(word)
	}
	_, err := o.id([]string{word})
	return err
}

// named returns the id of the object that an argument names.
func (o *objects[T, P, C]) named(
	ctx context.Context, server *client.Client, word string,
) (string, error) {
	if o.tokens && word == fromToken {
		return o.cli.keyOfToken(ctx, server)
	}
	if o.naming != nil {
		return o.naming.find(ctx, server, word)
	}
	return o.id([]string{word})
}

// question returns the object in a sentence, for a question: `key 4fYQ0hTz81Lk (CI) in namespace
// acme`. It has only the id of an object that cannot be read.
func (o *objects[T, P, C]) question(
	ctx context.Context, server *client.Client, ids []string,
) string {
	var list []string
	for _, id := range ids {
		text := o.noun + " " + id
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		if t, err := o.find(server, ctx, id); err == nil {
			text = o.describe(t)
		}
		cancel()
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

// confirmed asks for confirmation of a change of these objects; question has %s for them.
func (o *objects[T, P, C]) confirmed(
	ctx context.Context, server *client.Client, yes bool, question string, ids []string,
) error {
	about := o.noun + " " + strings.Join(ids, ", ")
	if _, ok := terminal(o.cli.in); ok && !yes {
		about = o.question(ctx, server, ids)
	}
	return o.cli.confirm(ctx, yes, question, about)
}

// changeEach changes objects one after the other, and reports each. It continues after an error.
func (o *objects[T, P, C]) changeEach(
	ids []string, verb string, change func(id string) (C, error),
) error {
	if len(ids) == 1 {
		done, err := change(ids[0])
		if err != nil {
			return err
		}
		return o.changed(done, verb)
	}
	var failed error
	all := []C{}
	for _, id := range ids {
		done, err := change(id)
		if err == nil {
			all = append(all, done)
			if !o.cli.json {
				err = o.changed(done, verb)
			} else {
				_, p := o.changes(done)
				err = o.cli.propagated(p)
			}
		} else {
			err = fmt.Errorf("%s %s: %w", o.noun, id, err)
			o.cli.report(err)
			err = reportedError{err}
		}
		if failed == nil || errors.Is(failed, errPending) && err != nil {
			failed = err
		}
	}
	if o.cli.json {
		if err := o.cli.writeJSON(map[string][]C{"items": all}); err != nil {
			return err
		}
	}
	return failed
}
