package bench

import (
	"fmt"
	"strings"
	"testing"
)

// report is the chapter with the results of this run.
var report chapter

// A chapter of docs/benchmarks.md has the results of one command.
type chapter struct {
	command, title string
	bars, sections strings.Builder
}

func (c *chapter) bar(what, bar, found string, met bool) {
	verdict := "met"
	if !met {
		verdict = "**not met**"
	}
	fmt.Fprintf(&c.bars, "| %s | %s | %s | %s |\n", what, bar, found, verdict)
}

func (c *chapter) section(title, text string) {
	fmt.Fprintf(&c.sections, "\n### %s\n\n%s", title, text)
}

func (c *chapter) String() string {
	bars := c.bars.String()
	if bars != "" {
		bars = "\n| what | bar | measured | |\n|---|---|---|---|\n" + bars
	}
	return fmt.Sprintf("## %s\n\n`%s`, %s.\n%s%s", c.title, c.command, machine(), bars,
		c.sections.String())
}

const preface = "# Benchmarks\n\n" +
	"The command that a chapter names writes the chapter, in one run on one machine. Do not edit " +
	"this page.\n\n" +
	"The load generator, the upstream, PostgreSQL, Redis and other programs share the processors " +
	"with Caddy. Compare\n" +
	"numbers within a table only, and look at the control or the quiet row first.\n"

// with returns the document with the chapter in place of the one with its title, or at the end.
func with(document, title, text string) string {
	begin, end := fmt.Sprintf("<!-- %s -->\n", title), fmt.Sprintf("<!-- end of %s -->\n", title)
	if document == "" {
		document = preface
	}
	before, rest, found := strings.Cut(document, begin)
	if !found {
		return document + "\n" + begin + text + end
	}
	_, after, _ := strings.Cut(rest, end)
	return before + begin + text + end + after
}

func TestChapters(t *testing.T) {
	document := with(with("", "a", "A\n"), "b", "B\n")
	got := with(document, "a", "again\n")
	if want := preface +
		"\n<!-- a -->\nagain\n<!-- end of a -->\n\n<!-- b -->\nB\n<!-- end of b -->\n"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}
