package main

import (
	"os"
	"path/filepath"
	"testing"
)

// A capture that does not come about leaves the file of an earlier one as it was, and no file where there was none.
func TestCaptureFileOfARefusedCapture(t *testing.T) {
	dir := t.TempDir()
	earlier, none := filepath.Join(dir, "earlier.pcapng"), filepath.Join(dir, "none.pcapng")
	if err := os.WriteFile(earlier, []byte("packets of before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{earlier, none} {
		if code := run(t.Context(), []string{"sluice", "capture", "--socket", filepath.Join(dir, "no.sock"), "-w", name}); code != exitFailed {
			t.Fatalf("exit code %d without a sluice", code)
		}
	}
	if b, err := os.ReadFile(earlier); err != nil || string(b) != "packets of before" {
		t.Errorf("the earlier capture is %q, %v", b, err)
	}
	if _, err := os.Stat(none); !os.IsNotExist(err) {
		t.Errorf("a file was left behind: %v", err)
	}
}

// One that begins has the file to itself.
func TestCaptureFileOfACapture(t *testing.T) {
	name := filepath.Join(t.TempDir(), "a.pcapng")
	for _, text := range []string{"a long capture", "short"} {
		f, err := openCaptureFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f.begin()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := f.finish(); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != text {
			t.Errorf("%q, %v; want %q", b, err, text)
		}
	}
}
