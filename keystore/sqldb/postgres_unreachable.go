package sqldb

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Unreachable reports whether an error of [OpenPostgres], or of a later call, may be temporary: no
// server or only some of several could be reached, or the server is out of resources or blocks this
// program. A server that refuses the user, or is the wrong one, counts as reachable. For an error
// of [OpenSQLite] it reports whether the cause is outside the file.
func Unreachable(err error) bool {
	return anywhere(err, serverUnreachable) && !anywhere(err, serverRefuses) ||
		anywhere(err, unreachableSQLite)
}

// serverUnreachable reports whether an error itself, not one that it wraps, may be temporary.
//
//nolint:errorlint // anywhere visits the wrapped errors
func serverUnreachable(err error) bool {
	if err == context.DeadlineExceeded || err == io.EOF || err == io.ErrUnexpectedEOF ||
		err == errUnreplicated {
		return true
	}
	switch e := err.(type) {
	case *net.OpError:
		return e.Op == "dial" || e.Op == "read" || e.Op == "write" // not a TLS alert
	case *net.DNSError: // the name server may start late too
		return true
	case *pgconn.PgError:
		return slices.ContainsFunc(temporaryCodes,
			func(code string) bool { return strings.HasPrefix(e.Code, code) })
	}
	return false
}

// temporaryCodes are prefixes of PostgreSQL's codes for errors that may be temporary.
var temporaryCodes = []string{
	"08",                           // a pooler cannot reach the server
	"53",                           // out of connections, memory or disk space
	"57P",                          // starting or stopping
	"55P03", "57014", "40", "25P0", // blocked by others for too long
}

// serverRefuses reports whether an error itself is a refusal that waiting does not change.
//
//nolint:errorlint // anywhere visits the wrapped errors
func serverRefuses(err error) bool {
	switch e := err.(type) {
	case *tls.CertificateVerificationError:
		return true
	case *pgconn.PgError:
		return strings.HasPrefix(e.Code, "28") || e.Code == "3D000" || e.Code == "42501" ||
			refusedParameter(e.Code) || unknownParameter(e)
	}
	return false
}

// refusedParameter reports whether the error code of a new connection means that the server does
// not know a parameter or refuses its value.
func refusedParameter(code string) bool {
	return code == "42704" || code == "22023" || code == "55P02"
}

// unknownParameter reports whether PgBouncer refuses a parameter of the URL. All errors of
// PgBouncer have the same code.
func unknownParameter(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && strings.HasPrefix(e.Message, "unsupported startup parameter")
}

// anywhere reports whether an error, or one that it wraps, matches. Each of several servers has its
// own error.
func anywhere(err error, match func(error) bool) bool {
	if err == nil || match(err) {
		return err != nil
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		return slices.ContainsFunc(many.Unwrap(), func(e error) bool { return anywhere(e, match) })
	}
	return anywhere(errors.Unwrap(err), match)
}
