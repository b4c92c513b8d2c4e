package console

import (
	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/admin/client"
)

func keyPages() []page {
	return []page{
		{"GET " + Root + "/keys", anyMember, listKeys},
	}
}

type keysPage struct {
	Keys []api.Key
	Next *string
}

// pageSize is how many lines a list shows.
const pageSize = 50

func listKeys(v *visit) error {
	list, err := v.api.ListKeys(v.ctx, client.KeyFilter{
		Namespace: v.namespace(), Status: v.query("status"), Owner: v.query("owner"), Role: v.query("role"), Text: v.query("q"), Cursor: v.query("cursor"), Limit: pageSize,
	})
	if err != nil {
		return err
	}
	return v.show("keys", "Keys", keysPage{list.Items, list.NextCursor})
}
