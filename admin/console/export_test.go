package console

import (
	"strings"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
	"github.com/caddy-apikeys/caddy-apikeys/keystore/manage"
)

// Chart returns a chart as HTML.
func Chart(step keystore.Period, u *manage.UsageSeries, quota *api.Quota) string {
	return execute("chart", newChart("usage", step, u, quota))
}

// Spark returns a spark as HTML.
func Spark(u *manage.UsageSeries) string { return execute("spark", newSpark(u, "30 days")) }

func execute(name string, data any) string {
	var b strings.Builder
	if err := templates()["key"].ExecuteTemplate(&b, name, data); err != nil {
		panic(err)
	}
	return strings.TrimSpace(b.String()) + "\n"
}
