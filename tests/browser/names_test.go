package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/caddy-apikeys/caddy-apikeys/tests/chromium"
	"github.com/caddy-apikeys/caddy-apikeys/tests/gate"
)

// TestHostileMemberAndNamespaceNames shows hostile names of members and namespaces on every page
// that has them.
func TestHostileMemberAndNamespaceNames(t *testing.T) {
	t.Parallel()
	g := gate.Start(t, gate.Config{Site: site})
	_, token := member(t, g, "ada", everywhere)
	g.Namespace(t, "acme", gate.JSON{"name": strings.Repeat("ohneLeerzeichen", 13) + "ende!"})
	var id, key string
	for i, name := range []string{
		`<script>alert("1")</script> "><img src=x onerror=alert(1)>`,
		"مفتاح الواجهة txt.exe 鍵管理 🔑",
		strings.Repeat("mit Leerzeichen ", 12) + "Ende",
		strings.Repeat("ohneLeerzeichen", 13) + "ende!",
	} {
		namespace := fmt.Sprintf("acme-%d", i)
		g.Namespace(t, namespace, gate.JSON{"name": name, "parent": "acme", "kind": "user group"})
		id, _ = member(t, g, name, gate.JSON{"namespace": namespace, "roles": []string{"developer"},
			"connected": true})
		key = g.Mint(t, gate.JSON{"name": name, "namespace": namespace, "access": "read_only",
			"owner": id}).ID
	}
	page := signedIn(t, g, token, chromium.Look{})
	for name, path := range map[string]string{
		"keys": "/apikeys/keys?namespace=acme-3", "key": "/apikeys/keys/" + key,
		"key-new":    "/apikeys/keys/new?namespace=acme",
		"namespaces": "/apikeys/namespaces", "namespace": "/apikeys/namespaces/acme-3",
		"namespace-edit": "/apikeys/namespaces/acme-3/edit",
		"members":        "/apikeys/members", "member": "/apikeys/members/" + id,
		"member-edit": "/apikeys/members/" + id + "/edit", "audit": "/apikeys/audit",
	} {
		page.Show(chromium.Look{Width: 360})
		page.Open(path)
		page.Steady()
		for _, width := range []int{360, 768, 1440} {
			page.Show(chromium.Look{Width: width})
			page.Fits()
			page.Tidy()
			page.Picture("names-" + name)
		}
	}
}
