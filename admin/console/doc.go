// Package console serves the web console under /apikeys/, in which people manage API keys and the
// namespaces, roles, plans and members around them.
//
// It is a client of the REST interface in the same process (call.go). A page can do nothing that
// the interface refuses, and shows the field errors of the interface beside the fields.
// [manage.Keystore.May] and MayIn decide which links and buttons a page offers. That is a courtesy
// to the user and protects nothing. The package knows neither Caddy nor how users authenticate: the
// server that embeds it describes the user of each request as a [Visitor].
//
// Start with console.go, which lists the pages and holds the checks that all share, then read
// roles.go, a small section with all kinds of pages. visit.go and view.go hold the functions for
// handlers and templates.
//
// # Adding a page
//
// Each section has a file with a function that returns its pages. [Console.pages] lists these
// functions:
//
//	func rolePages() []page {
//		return []page{
//			{"GET /apikeys/roles", "admin.roles:read", listRoles},
//			{"GET /apikeys/roles/new", "admin.roles:create", newRole},
//			{"POST /apikeys/roles/new", "admin.roles:create", createRole},
//		}
//	}
//
// The visitor must have the permission in some namespace, else the page answers 403. Links to the
// page check it as well (visit.may in Go, .May and .MayIn in templates). An empty permission admits
// every member. [navigation] holds the entries of the main navigation.
//
// A handler calls the REST interface with visit.api, a [client.Client] that acts as the visitor,
// and ends with one of
//
//	// 200 with templates/roles.html, in which .Page is the rolesPage
//	return v.show("roles", "Roles", rolesPage{…})
//	// 422 with the values of the form and the errors that form.fail has added
//	return v.again("role_form", "Create role", page, f)
//	// 303, with a notice on the next page
//	return v.done("/apikeys/roles", notice{Title: "Role created"})
//	// the same after a change that reduces access: the notice shows how many servers have
//	// applied the change; the visitor sees the progress page first if some have not
//	return v.changed("/apikeys/roles", "Changes saved", p)
//	// a page with the refusal of the REST interface, with its status
//	return err
//
// # Forms
//
// A form posts to its own address, so that signing in again leads back to it. It needs no script.
// Inputs have the names of the REST fields ("name", "permissions", "grants[0].namespace"). The
// handler builds the body of the REST call from visit.form() and calls. If form.fail returns true
// for an error, the user can fix the form, and the handler shows it again; otherwise it returns the
// error. templates/parts.html has templates for fields, which show their value, hint and error.
// {{template "errors" .}} above the fields lists all errors with links, including those of fields
// that the page does not have. [form.Target] says which input shows an error.
//
// Errors that the handler finds itself are added with form.wrong. It then calls the interface with
// visit.refusing, which refuses the call and adds the interface's own errors.
//
// If the session ends while a form is filled in, the handler of the GET request gets the input from
// visit.kept.
//
// The form for a change begins with {{template "edited" .}}, and its handler with visit.merge. If
// someone else has changed the object, merge brings the form up to date: see edit. The form for a
// new object has {{template "as-code" .}}, for which the handler sets form.Code.
//
// A button named `again` shows the form again with its input, or a review: see form.again. With the
// attribute data-part it replaces only a part of the page, so that the script can load a large part
// when the visitor opens it.
//
// # Lists
//
// The address of a list holds its filters, `namespace` (set by the switcher and kept by .Link) and
// `cursor` (from the REST interface). visit.link(path, "name", value, …) and .With in templates
// return such addresses. {{template "pager" …}} links to the next page and to the previous one,
// whose cursor the address has. Lists are sorted newest first. Keys can also be sorted in the other
// orders of the REST interface.
//
// To add a column, add a th and a td with data-label to the template of the list. A sortable column
// uses {{template "sorted" …}} and keysPage.Column.
//
// # Charts
//
// chart.go computes the geometry of a chart of usage and spark.go that of a small one in a row of a
// table; templates/charts.html writes them as SVG. Every series has its own pattern, and a
// table or a text repeats the numbers. A page that shows usage reads it with visit.usagePart,
// which never fails: see [usagePart]. `go test -run TestCharts ./admin/console -update` rewrites the
// charts in testdata. Look at the charts before you commit them.
//
// # Style
//
// assets/style.css begins with a list of its components. Times are written as {{time .CreatedAt}}
// and shown in the viewer's time zone by the script. Nothing may depend on the script, which only
// saves clicks. The Content-Security-Policy allows neither inline scripts nor inline styles.
package console
