//go:build unix

package admin_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin"
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// importLines returns about n bytes of an import.
func importLines(from, n int) string {
	var b strings.Builder
	for i := from; b.Len() < n; i++ {
		fmt.Fprintf(&b,
			`{"name":"key number %d","access":"read_only","token":"a-credential-that-is-%032d",`+
				`"metadata":{"team":"%s"}}`+"\n", i, i, strings.Repeat("x", 150))
	}
	return b.String()
}

// An upload is a request with an incomplete body.
type upload struct {
	*httptest.ResponseRecorder
	body *io.PipeWriter
	done chan struct{}
}

func (d *testAPI) begin(path, contentType string) *upload {
	r, w := io.Pipe()
	u := &upload{httptest.NewRecorder(), w, make(chan struct{})}
	request := httptest.NewRequest(http.MethodPost, api.Prefix+path, r)
	request.Header.Set("Content-Type", contentType)
	request = request.WithContext(admin.WithCaller(request.Context(), root))
	go func() {
		defer close(u.done)
		defer r.Close()
		d.ServeHTTP(u, request)
	}()
	return u
}

// end ends the body and waits for the answer.
func (u *upload) end(t *testing.T) answer {
	t.Helper()
	u.body.Close()
	<-u.done
	return answer{status: u.Code, header: u.Header(), text: u.Body.String()}
}

func liveHeap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemoryOfIncompleteImports checks that incomplete bodies use about as much memory as was sent.
func TestMemoryOfIncompleteImports(t *testing.T) {
	const imports, size = 5, 1 << 20
	d := open(t)
	before := liveHeap()
	var uploads []*upload
	var sending sync.WaitGroup
	for i := range imports {
		u := d.begin("/keys/import", api.NDJSON)
		uploads = append(uploads, u)
		text := importLines(i*1_000_000, size)
		sending.Go(func() { _, _ = io.WriteString(u.body, text) })
	}
	sending.Wait() // the sent part of each body has been read
	took := liveHeap() - before
	if used, limit := d.Memory(); used < imports*size || used > 3*imports*size ||
		limit != admin.DefaultMemory {
		t.Errorf("%d of %d bytes are accounted for, with bodies of %d", used, limit, imports*size)
	} else if took > 3*used/2 {
		t.Errorf("%d bytes are in use, %d are accounted for", took, used)
	}
	for _, u := range uploads[1:] {
		u.body.CloseWithError(io.ErrUnexpectedEOF)
		<-u.done
	}
	if a := uploads[0].end(t); a.status != 201 {
		t.Error(a.status, a.text)
	}
	if used, _ := d.Memory(); used != 0 {
		t.Errorf("%d bytes are in use afterwards", used)
	}
}

// TestMemoryIsShared checks that a request gets 429 if other requests use the memory, and 413 if it
// would exceed all of it.
func TestMemoryIsShared(t *testing.T) {
	d := open(t)
	d.SetMemory(1 << 20)
	first := d.begin("/keys/import", api.NDJSON)
	text := importLines(0, 300<<10)
	if _, err := io.WriteString(first.body, text); err != nil {
		t.Fatal(err)
	}
	wantBusy := func(name string, a answer) {
		t.Helper()
		if a.status != 429 || a.header.Get("Retry-After") == "" ||
			!strings.Contains(a.text, `"busy"`) {
			t.Errorf("%s: %d %s", name, a.status, a.text)
		}
	}
	second := d.begin("/keys/import", api.NDJSON)
	_, _ = io.WriteString(second.body, importLines(1_000_000, 600<<10)) // not all of it is read
	wantBusy("another import", second.end(t))
	body := `{"name":"` + strings.Repeat("x", 250<<10) + `"}`
	wantBusy("a large body", d.call(t, root, "POST", "/keys", body))
	d.mint(t, root, readOnly)
	if a := first.end(t); a.status != 201 {
		t.Error(a.status, a.text)
	}
	if a := d.call(t, root, "POST", "/keys", body); a.status != 422 {
		t.Errorf("a large body afterwards: %d %s", a.status, a.text)
	}
	if a := d.call(t, root, "POST", "/keys",
		`{"name":"`+strings.Repeat("x", 500<<10)+`"}`); a.status != 413 ||
		!strings.Contains(a.text, "too_large") {
		t.Errorf("a body that never fits: %d %s", a.status, a.text)
	}
	if a := d.call(t, root, "POST", "/keys/import", importLines(2_000_000, 2<<20), "Content-Type",
		api.NDJSON); a.status != 413 || !strings.Contains(a.text, "partial=1") {
		t.Errorf("an import that never fits: %d %s", a.status, a.text)
	}
	if a := d.call(t, root, "POST", "/keys/import?partial=1", importLines(3_000_000, 200<<10),
		"Content-Type", api.NDJSON); a.status != 201 {
		t.Errorf("a partial import: %d %s", a.status, a.text)
	}
	if used, _ := d.Memory(); used != 0 {
		t.Errorf("%d bytes are in use afterwards", used)
	}
}

// TestRevokeWithoutMemory checks that a change that reduces access is never refused because other
// requests use the memory.
func TestRevokeWithoutMemory(t *testing.T) {
	d := open(t)
	key := d.mint(t, root, readOnly).Key
	m, _ := d.member(t, `{"name":"Ada","grants":[{"namespace":"default","roles":["developer"]}]}`)
	d.SetMemory(1) // as if running requests used all of it
	if a := d.call(t, root, "POST", "/keys",
		`{"name":"`+strings.Repeat("x", 250<<10)+`"}`); a.status != 413 {
		t.Errorf("a large body: %d %s", a.status, a.text)
	}
	narrow := `{"grants":[{"namespace":"default","permissions":["` + strings.Repeat("x", 180) +
		`:read"]}]}`
	for _, test := range [][3]string{
		{"PATCH", "/keys/" + key.ID, `{"permissions":["orders:read"]}`},
		{"PATCH", "/keys/" + key.ID, `{"active":false}`},
		{"POST", "/keys/" + key.ID + "/revoke", `{"reason":"lost"}`},
		{"PATCH", "/members/" + m.ID, narrow},
		{"PATCH", "/members/" + m.ID, `{"active":false}`},
	} {
		if a := d.call(t, root, test[0], test[1], test[2]); a.status != 200 {
			t.Errorf("%s %s: %d %s", test[0], test[1], a.status, a.text)
		}
	}
	if used, _ := d.Memory(); used != 0 {
		t.Errorf("%d bytes are in use afterwards", used)
	}
}

// TestLargePages checks that a page of a list is limited in memory, and that lists share the limit.
func TestLargePages(t *testing.T) {
	d := open(t)
	const large = 50
	value := strings.Repeat("x", 190)
	var permissions []string
	for i := range 500 {
		permissions = append(permissions, fmt.Sprintf("%s%03d:read", value[:170], i))
	}
	for i := range large {
		d.call(t, root, "POST", "/roles",
			map[string]any{"namespace": "default", "name": fmt.Sprint("r", i),
				"permissions": permissions}).into(t, 201, new(api.Role))
	}
	for i := range large {
		d.call(t, root, "POST", "/keys",
			map[string]any{"name": fmt.Sprint("k", i), "permissions": permissions}).into(t, 201,
			new(api.Minted))
	}
	for path, want := range map[string]int{"/roles": large + 3, "/keys": large,
		"/audit": 2 * large} {
		seen, pages := 0, 0
		for cursor := ""; pages == 0 || cursor != ""; pages++ {
			a := d.call(t, root, "GET", path+"?limit=1000"+cursor, nil)
			var page api.Page[struct{}]
			a.into(t, 200, &page)
			if len(a.text) > 2*keystore.PageBytes {
				t.Errorf("%s: a page of %d bytes", path, len(a.text))
			}
			seen += len(page.Items)
			cursor = ""
			if page.NextCursor != nil {
				cursor = "&cursor=" + *page.NextCursor
			}
		}
		if seen != want || pages < 2 {
			t.Errorf("%s: %d objects on %d pages, want %d", path, seen, pages, want)
		}
		other := d.begin("/keys/import", api.NDJSON) // uses memory until it ends
		if _, err := io.WriteString(other.body, importLines(0, 100<<10)); err != nil {
			t.Fatal(err)
		}
		used, _ := d.Memory()
		d.SetMemory(used + 3*keystore.PageBytes/2)
		if a := d.call(t, root, "GET", path+"?limit=1000", nil); a.status != 429 &&
			a.status != 413 {
			t.Errorf("%s, without memory: %d", path, a.status)
		}
		d.call(t, root, "GET", path+"?limit=2", nil).into(t, 200, new(api.Page[struct{}]))
		other.body.CloseWithError(io.ErrUnexpectedEOF)
		<-other.done
		d.SetMemory(admin.DefaultMemory)
	}
	if used, _ := d.Memory(); used != 0 {
		t.Errorf("%d bytes are in use afterwards", used)
	}
}

// TestIdleBodies checks that a client that stops sending its body gets 408.
func TestIdleBodies(t *testing.T) {
	d := open(t)
	d.SetIdleTimeout(100 * time.Millisecond)
	s := d.serve(t)
	for _, path := range []string{"/keys", "/keys/import", "/keys/import?partial=1"} {
		contentType := api.JSON
		if strings.Contains(path, "import") {
			contentType = api.NDJSON
		}
		t.Run("HTTP1"+path, func(t *testing.T) {
			conn := dial(t, s, "http/1.1")
			fmt.Fprintf(conn,
				"POST %s%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: "+
					"1000\r\n\r\n{\"name\":", api.Prefix, path, contentType)
			a, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || a.StatusCode != http.StatusRequestTimeout {
				t.Fatal(a, err)
			}
		})
		t.Run("HTTP2"+path, func(t *testing.T) {
			r, w := io.Pipe()
			defer w.Close()
			go io.WriteString(w, `{"name":`)
			client := s.Client()
			a, err := client.Post(s.URL+api.Prefix+path, contentType, r)
			if err != nil || a.StatusCode != http.StatusRequestTimeout || a.ProtoMajor != 2 {
				t.Fatal(a, err)
			}
			a.Body.Close()
		})
	}
}
