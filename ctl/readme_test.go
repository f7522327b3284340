package ctl

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The README's configurations are good ones.
func TestReadmeFiles(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(readme, -1) {
		text := string(block[1])
		if !strings.Contains(text, "ports:") || !strings.Contains(text, "virtual-servers:") {
			continue // a part of one
		}
		n++
		if _, err := Parse("README.md", block[1]); err != nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
	if n < 4 {
		t.Errorf("only %d configurations were found", n)
	}
}
