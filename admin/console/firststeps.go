package console

// A step is an entry of the checklist that the list of keys shows while no key exists.
type step struct {
	Title, Text string
	Code        string // of a Caddyfile; empty: none
	Link, Label string // the page for it; empty: none
	Done        bool
}

// FirstSteps returns the checklist of a new deployment. Done marks the steps that are known to be
// done.
func (d *view) FirstSteps() []step {
	permissions := false
	if list, err := d.api.ListPermissions(d.ctx, "", 1); err == nil {
		permissions = len(list.Items) > 0
	}
	steps := []step{
		{Title: "Require keys for your API", Done: d.Beside || permissions,
			Text: "Add api_key to the site of the API in the Caddyfile.",
			Code: "api_key {\n\tpublic /apikeys/*\n}"},
		{Title: "Declare the calls of your API", Done: permissions,
			Text: "Keys can then be limited to single calls instead of reads and writes.",
			Code: "api_key {\n\topenapi openapi.yaml\n\tpublic /apikeys/*\n}"},
		{Title: "Create a key", Text: "Create one for each program that calls the API.",
			Link: d.Link("/keys/new"), Label: "Create key"},
		{Title: "Call the API with the key",
			Text: "The token is shown once, with a curl line to try it."},
	}
	if d.may("admin.members:create") {
		list, err := d.api.ListMembers(d.ctx, "", 2)
		steps = append(steps, step{Title: "Invite others", Done: err == nil && len(list.Items) > 1,
			Text: "Members sign in here with their own tokens or logins.",
			Link: d.Link("/members/new"), Label: "Create member"})
	}
	return steps
}
