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

// assetsPath is the path of the style sheet, the script and the pictures. Their names contain a
// hash of their contents, so browsers can cache them forever.
const assetsPath = Root + "/assets/"

var assets, assetNames = readAssets()

// readAssets returns the contents of the files by the names under which they are served, and these
// names by file name.
func readAssets() (contents map[string][]byte, names map[string]string) {
	contents, names = make(map[string][]byte), make(map[string]string)
	entries, err := assetFiles.ReadDir("assets")
	if err != nil {
		panic(err) // the files are embedded
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
	respond(w, r, http.StatusOK, text)
}
