package client

import (
	"iter"
	"strconv"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

// maxPage is the largest page that the server returns.
const maxPage = 1000

// page asks for one page of a list; a limit of 0 leaves its size to the server.
func (r *request) page(cursor string, limit int) {
	r.parameter("cursor", cursor)
	if limit > 0 {
		r.parameter("limit", strconv.Itoa(limit))
	}
}

// Pages iterates over the pages of a list, beginning at cursor, which is empty for the first page.
// list returns the page at a cursor. Iteration stops after an error. A program that needs no page
// boundaries uses one of the All methods of [Client].
func Pages[T any](
	cursor string, list func(cursor string) (api.Page[T], error),
) iter.Seq2[api.Page[T], error] {
	return func(yield func(api.Page[T], error) bool) {
		for {
			page, err := list(cursor)
			if !yield(page, err) || err != nil || page.NextCursor == nil {
				return
			}
			cursor = *page.NextCursor
		}
	}
}

// all iterates over the items of all pages, beginning at cursor.
func all[T any](cursor string, list func(cursor string) (api.Page[T], error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for page, err := range Pages(cursor, list) {
			if err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
			}
		}
	}
}
