package gate

import (
	"bytes"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metric returns the sum of the series of a metric that have all the labels, each `name=value`. A
// histogram counts with its number of observations. Without a series, the sum is 0.
func (g *Gate) Metric(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(g.admin(t, "GET", "/metrics",
		nil).Body))
	if err != nil {
		t.Fatalf("/metrics: %v", err)
	}
	sum := 0.0
	for _, series := range families[name].GetMetric() {
		has := map[string]bool{}
		for _, pair := range series.GetLabel() {
			has[pair.GetName()+"="+pair.GetValue()] = true
		}
		all := true
		for _, label := range labels {
			if !strings.Contains(label, "=") {
				t.Fatalf("label %q is not name=value", label)
			}
			all = all && has[label]
		}
		if all {
			sum += series.GetCounter().GetValue() + series.GetGauge().GetValue() +
				float64(series.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// CollectGarbage makes Caddy collect garbage before its memory is measured.
func (g *Gate) CollectGarbage(t testing.TB) {
	t.Helper()
	if r := g.admin(t, "GET", "/debug/pprof/heap?gc=1", nil); r.Status != 200 {
		t.Fatalf("reading a heap profile: status %d", r.Status)
	}
}
