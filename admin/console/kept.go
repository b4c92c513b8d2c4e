package console

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// keptCookie keeps the input of a form, sealed and compressed, for the page of the form if the
// session has ended. After the sign-in, that page shows the form with its input and does not send
// it.
const keptCookie = "apikeys-form"

// keptStep is the value of the field `again` with which the script sends the input that it has
// kept.
const keptStep = "kept"

const (
	// maxKept keeps the cookie below the limit of browsers, in bytes. It is enough for a form with
	// a few hundred checked permissions.
	maxKept = 3800
	// maxPacked bounds the work for visitors who are not signed in, in bytes.
	maxPacked = 64 << 10
	// keptLife is how long a visitor has to find the token and sign in.
	keptLife = time.Hour
	// keptPurpose separates the key of the cookie from other keys.
	keptPurpose = "console form"
)

// isForm reports whether the page of this address can show a kept form.
func (v *visit) isForm() bool {
	return strings.HasSuffix(v.r.URL.Path, "/new") || strings.HasSuffix(v.r.URL.Path, "/edit")
}

// Values of the parameter `form` of the sign-in page: what happened to the input when the session
// ended.
const formKept, formLong, formToken = "kept", "long", "token"

// keepForm keeps the posted form for its page, unless it is too long or incomplete, or contains a
// token. It returns what happened to the form, or "" if it does not say who filled it in.
func (v *visit) keepForm() string {
	if err := v.r.ParseForm(); err != nil {
		return formLong
	}
	if holdsToken(v.r.PostForm, "") {
		return formToken
	}
	text := v.r.PostForm.Encode()
	if len(text) > maxPacked {
		return formLong
	}
	if v.r.PostForm.Get(authorField) == "" {
		return ""
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		panic(err) // the level is valid
	}
	_, _ = io.WriteString(w, text) // a buffer accepts everything
	_ = w.Close()
	//nolint:gosec // the cipher chooses a random nonce
	sealed := v.keys.TokenKey().AEAD(keptPurpose).Seal(nil, nil, packed.Bytes(),
		[]byte(v.r.URL.Path))
	value := base64.RawURLEncoding.EncodeToString(sealed)
	if len(value) > maxKept {
		return formLong
	}
	v.setCookieAt(v.r.URL.EscapedPath(), keptCookie, value, keptLife)
	return formKept
}

// authorField is the field of forms with the id of the member that filled them in. Another member
// who signs in does not see its input.
const authorField = "author"

// wrote reports whether the visitor has filled in a form that was kept.
func (v *visit) wrote(values url.Values) bool {
	return values.Get(authorField) == v.Caller.Member()
}

// kept returns the form that was kept for this page, or nil. It returns a form only once.
func (v *visit) kept() *form {
	cookie, err := v.r.Cookie(keptCookie)
	if err != nil {
		return nil
	}
	v.setCookieAt(v.r.URL.EscapedPath(), keptCookie, "", -time.Second)
	sealed, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return nil
	}
	packed, err := v.keys.TokenKey().AEAD(keptPurpose).Open(nil, nil, sealed, []byte(v.r.URL.Path))
	if err != nil {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), 3*maxForm))
	if err != nil {
		return nil
	}
	values, err := url.ParseQuery(string(text))
	if err != nil || !v.wrote(values) {
		return nil
	}
	return &form{values: values, status: http.StatusOK, Kept: true}
}
