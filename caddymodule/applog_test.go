package caddymodule

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestReloadableLog(t *testing.T) {
	var first, second bytes.Buffer
	l := newReloadableLog(slog.New(slog.NewTextHandler(&first, nil)))
	logger := slog.New(l).With("node", "n1").WithGroup("change").With("by", "root")
	logger.Info("one", "id", "k1")
	l.moveTo(slog.New(slog.NewTextHandler(&second, &slog.HandlerOptions{Level: slog.LevelWarn})))
	logger.Info("two", "id", "k2")
	logger.Warn("three", "id", "k3")
	if got := first.String(); !strings.Contains(got,
		"msg=one node=n1 change.by=root change.id=k1\n") || strings.Contains(got, "two") ||
		strings.Contains(got, "three") {
		t.Errorf("the first log: %s", got)
	}
	if got := second.String(); !strings.Contains(got,
		"msg=three node=n1 change.by=root change.id=k3\n") || strings.Contains(got, "two") {
		t.Errorf("the second log: %s", got)
	}
}
