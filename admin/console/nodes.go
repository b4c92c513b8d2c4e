package console

import (
	"fmt"
	"time"

	"github.com/caddy-apikeys/caddy-apikeys/admin/api"
)

const nodesPath = Root + "/nodes"

func nodePages() []page {
	return []page{{"GET " + nodesPath, "admin.nodes:read", listNodes}}
}

type nodesPage struct {
	Nodes   []nodeLine
	Summary string
}

// A nodeLine is a node as shown.
type nodeLine struct {
	api.Node
	Lease string
	Lag   string
}

func listNodes(v *visit) error {
	list, err := v.api.ListNodes(v.ctx)
	if err != nil {
		return err
	}
	var p nodesPage
	behind, missing := 0, 0
	for _, n := range list.Items {
		line := nodeLine{Node: n, Lease: durationWords((time.Duration(n.LeaseMS) * time.Millisecond).String()),
			Lag: "Up to date"}
		if n.Behind > 0 {
			line.Lag = count(n.Behind, "change", "changes") + " behind"
		}
		switch {
		case n.State != "active":
			missing++
		case n.Behind > 0:
			behind++
		}
		p.Nodes = append(p.Nodes, line)
	}
	p.Summary = counted(int64(len(p.Nodes)), "server")
	if behind+missing > 0 {
		p.Summary += fmt.Sprintf(": %d behind, %d not active.", behind, missing)
	} else {
		p.Summary += ", all up to date."
	}
	return v.show("nodes", "Servers", p)
}
