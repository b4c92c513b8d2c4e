package console

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:embed assets
var assetFiles embed.FS

// assetsPath is where the style sheet, the script and the pictures are. Their names change with
// what they hold, so that they are kept for good.
const assetsPath = Root + "/assets/"

var assets, assetNames = readAssets()

// readAssets returns what files hold by the names they are served under, and those names by the
// files'.
func readAssets() (contents map[string][]byte, names map[string]string) {
	contents, names = make(map[string][]byte), make(map[string]string)
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // they are part of the program
	}
	for _, e := range entries {
		text, err := assetFiles.ReadFile("assets/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(text)
		ext := path.Ext(e.Name())
		served := strings.TrimSuffix(e.Name(), ext) + "-" + hex.EncodeToString(sum[:6]) + ext
		contents[served], names[e.Name()] = text, assetsPath+served
	}
	return contents, names
}

func serveAsset(w http.ResponseWriter, r *http.Request, name string) {
	text, ok := assets[name]
	if !ok || r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(text)
}
