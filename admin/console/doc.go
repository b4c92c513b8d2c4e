// Package console is the pages for people under /apikeys/: API keys, and what belongs to them,
// managed in a browser. It knows nothing of the server it runs in; a door says who visits (see
// [Visitor]).
//
// It is a client of the REST interface in the same process (call.go): what that refuses, no page
// can do, and what it says is wrong with a field stands beside that field. What a page offers is
// decided by [manage.Keystore.May] and MayIn; that is courtesy, not protection.
//
// # Adding a page
//
// A file of pages has a function that returns them, named in [Console.pages]:
//
//	func rolePages() []page {
//		return []page{
//			{"GET /apikeys/roles", "admin.roles:read", listRoles},
//			{"GET /apikeys/roles/new", "admin.roles:create", newRole},
//			{"POST /apikeys/roles/new", "admin.roles:create", createRole},
//		}
//	}
//
// The permission is what the visitor must hold in some namespace for the page to be there at all:
// whoever does not sees 403, and no link to it (visit.may in Go, .May and .MayIn in templates).
// Empty is for every member. The entry of the main navigation is a line in [navigation].
//
// A handler reads with visit.api, which is [client.Client] acting as the visitor, and ends with one
// of
//
//	return v.show("roles", "Roles", rolesPage{…})             // 200, templates/roles.html, .Page is the rolesPage
//	return v.again("role_new", "New role", page, f)           // 422 with what was typed and the errors that form.fail has kept
//	return v.done("/apikeys/roles", notice{Title: "Saved"})   // 303, and the notice on top of the next page
//	return v.changed("/apikeys/roles", "Saved", p)            // the same for what takes access away: with how far it has come, or to where that is shown
//	return err                                                // a page that says what the REST interface refused, with its status
//
// # Forms
//
// A form posts to the address it stands at, so that signing in again leads back to it, and it needs
// no script. Names of inputs are those of the REST fields ("name", "permissions",
// "grants[0].namespace"). The handler builds the body of the REST call from visit.form(), calls,
// and on an error asks form.fail: true means that the person can mend it, and the page is shown
// again; otherwise the error is returned. templates/parts.html has the fields, which show their own
// value, hint and error; {{template "errors" .}} before them lists all errors with links, those of
// fields that the page does not have included.
//
// # Lists
//
// What a list shows is in the address bar: filters, `namespace` (the switcher's; links made by
// .Link keep it) and `cursor`, which the REST interface gave. visit.link(path, "name", value, …)
// and .With in templates make such addresses; {{template "pager" …}} links to the next page, and
// the browser's way back leads to the one before. Lists are newest first; keys can be sorted
// otherwise, as far as the REST interface does.
//
// # Looks
//
// assets/style.css begins with a list of the components. Times are {{time .CreatedAt}}, which the
// script shows in the viewer's zone. Nothing may depend on the script, which only saves clicks. The
// Content-Security-Policy allows neither inline script nor inline style.
package console
