package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
)

// A sample is a call of the API in one language.
type sample struct{ Language, Code string }

// ID returns the id of the element that shows the sample.
func (s sample) ID() string { return "sample-" + strings.ToLower(s.Language) }

// samples returns a call with a token in several languages. address is the scheme and host.
func samples(method, address, path, token string) []sample {
	curl, python, script := "curl ", "", ""
	if method != http.MethodGet {
		// RFC 9110 allows methods with characters that are special to a shell.
		curl += `-X "` + inShell.Replace(method) + "\" \\\n  "
		python = ", method=" + quoted(method)
		script = "method: " + quoted(method) + ", "
	}
	curl += `-H "Authorization: Bearer ` + token + "\" \\\n  \"" + inShell.Replace(address+path) + `"`
	at, bearer := quoted(address+path), quoted("Bearer "+token)
	return []sample{
		{"curl", curl},
		{"Python", `import urllib.request

request = urllib.request.Request(` + at + `,
    headers={"Authorization": ` + bearer + `}` + python + `)
print(urllib.request.urlopen(request).read().decode())`},
		{"JavaScript", `const response = await fetch(` + at + `, {
  ` + script + `headers: { Authorization: ` + bearer + ` },
});
console.log(response.status, await response.text());`},
		{"Go", `package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	r, err := http.NewRequest(` + quoted(method) + `, ` + at + `, nil)
	if err != nil {
		log.Fatal(err)
	}
	r.Header.Set("Authorization", ` + bearer + `)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	log.Print(resp.Status)
	io.Copy(os.Stdout, resp.Body)
}`},
	}
}

// quoted returns a string literal of JSON, which is one of Python, JavaScript and Go as well.
func quoted(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // a buffer accepts everything
	return strings.TrimSpace(b.String())
}

// inShell escapes the characters that a shell interprets in double quotes.
var inShell = strings.NewReplacer(`"`, "%22", "$", "%24", "!", "%21", "`", "%60", `\`, "%5C")
