package keystore

import "time"

// A Plan is a named pair of limits. It belongs to one namespace, and only keys with this home
// namespace can name it. A shared plan has the namespace [AnyNamespace]: every key can name it, and
// no other plan can have its name.
type Plan struct {
	Namespace   string
	Name        string
	Description string // for people
	Limits
	CreatedAt time.Time
	Version   int64
	// Unreadable is the reason why the row, edited with SQL, cannot be read, or empty. Requests
	// with its keys are then [Unavailable].
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

// PlanFor returns the plan with this name for keys whose home is the namespace: one of that
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
