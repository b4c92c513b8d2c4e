package caddymodule

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"

	"github.com/caddy-apikeys/caddy-apikeys/caddymodule/redact"
	"github.com/caddy-apikeys/caddy-apikeys/keystore"
)

// CapacityConfig limits the contents of the database. Only growth beyond a limit is refused, with
// 422. A limit per namespace includes the descendants of the namespace, except for keys. Every
// process holds all namespaces, roles, plans and members in memory.
type CapacityConfig struct {
	// Maximum number of namespaces in the deployment. Default is 20000.
	Namespaces int64 `json:"namespaces,omitempty"`

	// Maximum number of namespaces in a namespace, itself included. Default is 5000.
	NamespacesPerNamespace int64 `json:"namespaces_per_namespace,omitempty"`

	// Maximum number of roles in the deployment. Default is 20000.
	Roles int64 `json:"roles,omitempty"`

	// Maximum number of roles in a namespace. Default is 5000.
	RolesPerNamespace int64 `json:"roles_per_namespace,omitempty"`

	// Maximum number of plans in the deployment. Default is 20000.
	Plans int64 `json:"plans,omitempty"`

	// Maximum number of plans in a namespace. Default is 5000.
	PlansPerNamespace int64 `json:"plans_per_namespace,omitempty"`

	// Maximum number of members in the deployment. Default is 20000.
	Members int64 `json:"members,omitempty"`

	// Maximum number of grants that members have in a namespace. Default is 5000.
	MembersPerNamespace int64 `json:"members_per_namespace,omitempty"`

	// Maximum size in bytes of all namespaces, roles, plans and members. Default is 67108864.
	DirectoryBytes int64 `json:"directory_bytes,omitempty"`

	// Maximum size in bytes of a namespace, with its roles, plans and the grants that members have
	// in it. Default is 16777216.
	DirectoryBytesPerNamespace int64 `json:"directory_bytes_per_namespace,omitempty"`

	// Maximum number of keys with one home namespace, whatever their status. Descendants do not
	// count. Default is 10000000.
	KeysPerNamespace int64 `json:"keys_per_namespace,omitempty"`

	// Maximum number of keys with one owner, whatever their status. Keys of root have no limit.
	// Default is 1000000.
	KeysPerOwner int64 `json:"keys_per_owner,omitempty"`
}

// options returns the caps by their Caddyfile option. The second cap is the one per namespace, or
// nil if the option has none.
func (c *CapacityConfig) options() map[string][2]*int64 {
	return map[string][2]*int64{
		"namespaces":         {&c.Namespaces, &c.NamespacesPerNamespace},
		"roles":              {&c.Roles, &c.RolesPerNamespace},
		"plans":              {&c.Plans, &c.PlansPerNamespace},
		"members":            {&c.Members, &c.MembersPerNamespace},
		"directory":          {&c.DirectoryBytes, &c.DirectoryBytesPerNamespace},
		"keys_per_namespace": {&c.KeysPerNamespace},
		"keys_per_owner":     {&c.KeysPerOwner},
	}
}

const capacityOptionNames = "namespaces, roles, plans, members, directory, keys_per_namespace, " +
	"keys_per_owner"

func (c *CapacityConfig) check() error {
	for option, caps := range c.options() {
		for _, n := range caps {
			if n != nil && *n < 0 {
				return fmt.Errorf("capacity: %s is %d: it must be above 0", option, *n)
			}
		}
		deployment, perNamespace := caps[0], caps[1]
		if perNamespace != nil && *deployment > 0 && *perNamespace > *deployment {
			return fmt.Errorf("capacity: %s per namespace is %d: it must be at most that of the "+
				"deployment, %d", option, *perNamespace, *deployment)
		}
	}
	return nil
}

func (c *CapacityConfig) capacity() keystore.Capacity {
	return keystore.Capacity{
		Namespaces: keystore.Caps{Deployment: c.Namespaces,
			PerNamespace: c.NamespacesPerNamespace},
		Roles:   keystore.Caps{Deployment: c.Roles, PerNamespace: c.RolesPerNamespace},
		Plans:   keystore.Caps{Deployment: c.Plans, PerNamespace: c.PlansPerNamespace},
		Members: keystore.Caps{Deployment: c.Members, PerNamespace: c.MembersPerNamespace},
		Directory: keystore.Caps{Deployment: c.DirectoryBytes,
			PerNamespace: c.DirectoryBytesPerNamespace},
		KeysPerNamespace: c.KeysPerNamespace, KeysPerOwner: c.KeysPerOwner,
	}
}

// parseCapacity parses the block of the option.
func parseCapacity(a *App, d *caddyfile.Dispenser, args []string) error {
	if len(args) > 0 {
		return d.Err("capacity accepts no arguments, only a block")
	}
	a.Capacity = new(CapacityConfig)
	options := a.Capacity.options()
	given := make(map[string]bool)
	for d.NextBlock(1) {
		option := d.Val()
		caps, known := options[option]
		switch {
		case !known:
			return d.Errf("unknown option %q in capacity: must be one of %s",
				redact.Argument(option), capacityOptionNames)
		case given[option]:
			return d.Errf("%s is given twice in capacity", option)
		}
		given[option] = true
		parse, what := parseCount, "number"
		if option == "directory" {
			parse, what = parseSize, "size"
		}
		args := d.RemainingArgs()
		ok := len(args) == 1 || len(args) == 2 && caps[1] != nil
		for i := 0; ok && i < len(args); i++ {
			*caps[i], ok = parse(args[i])
		}
		if !ok {
			perNamespace := ""
			if caps[1] != nil {
				perNamespace = ", optionally with one per namespace"
			}
			return d.Errf("%s %s: must be one %s above 0%s",
				option, redact.Argument(strings.Join(args, " ")), what, perNamespace)
		}
		if err := a.Capacity.check(); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

func parseCount(text string) (int64, bool) {
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && n > 0
}

// parseSize parses a number of bytes with an optional unit, such as 64MiB or 64MB.
func parseSize(text string) (int64, bool) {
	n, err := humanize.ParseBytes(text)
	return int64(n), err == nil && n > 0 && n < 1<<62
}
