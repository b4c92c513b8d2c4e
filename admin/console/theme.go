package console

import (
	"net/http"
	"slices"
	"time"
)

const themePath = Root + "/theme"

// themeCookie holds the theme. The server reads it, so that a page never shows another one first.
const themeCookie = "apikeys-theme"

var themes = []choice{{Value: "", Label: "System"}, {Value: "light", Label: "Light"},
	{Value: "dark", Label: "Dark"}}

func themePages() []page {
	return []page{{"POST " + themePath, anyMember, setTheme}}
}

// theme returns the visitor's theme, or an empty string for that of the system.
func (v *visit) theme() string {
	cookie, err := v.r.Cookie(themeCookie)
	if err != nil {
		return ""
	}
	return knownTheme(cookie.Value)
}

// knownTheme returns a theme, or an empty string if there is no such theme.
func knownTheme(name string) string {
	if !slices.ContainsFunc(themes, func(t choice) bool { return t.Value == name }) {
		return ""
	}
	return name
}

// setTheme stores the theme in this browser. The script stays on the page, so it sends no
// address to go to.
func setTheme(v *visit) error {
	life := 365 * day
	theme := knownTheme(v.form().Value("theme"))
	if theme == "" {
		life = -time.Second
	}
	v.setCookie(themeCookie, theme, life)
	if v.form().Value("next") == "" {
		v.w.WriteHeader(http.StatusNoContent)
	} else {
		v.redirect(v.next())
	}
	return nil
}
