package keystore

import "time"

// A Plan is a named pair of limits. It belongs to one namespace, and only keys at home there can
// name it. A shared plan has the namespace [AnyNamespace], and every key can name it. No other plan
// has the name of a shared one.
type Plan struct {
	Namespace   string
	Name        string
	Description string // for people
	Limits
	CreatedAt time.Time
	Version   int64
	// Unreadable is the reason why the row, edited with SQL, cannot be read, or empty. The plan then
	// has the limits that can be read.
	Unreadable string
}

// A PlanID identifies a plan.
type PlanID struct{ Namespace, Name string }

// ID returns the plan's id.
func (p *Plan) ID() PlanID { return PlanID{p.Namespace, p.Name} }

// Touches lists the plan's namespace.
func (p *Plan) Touches() []string { return []string{p.Namespace} }

// Plan returns the plan with this id, or nil.
func (d *Directory) Plan(id PlanID) *Plan { return d.plans[id] }

// PlanFor returns the plan that a key at home in a namespace refers to by name: one of that
// namespace or a shared one. It returns nil if the plan does not exist.
func (d *Directory) PlanFor(namespace, name string) *Plan {
	if name == "" {
		return nil
	}
	if p := d.plans[PlanID{namespace, name}]; p != nil {
		return p
	}
	return d.plans[PlanID{AnyNamespace, name}]
}
