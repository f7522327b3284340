package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
)

const (
	stateDir = "/run/sluice-lab"
	idPrefix = "sluice-"
)

// idRule finds the lab and the process id of its creator in the name of a namespace or of a state file.
var idRule = regexp.MustCompile(`^(sluice-(\d+)-[0-9a-f]{8})(-|\.json$)`)

// state is the record of a lab in stateDir. A process id alone may have been reused; with the start time it is unique.
type state struct {
	Label string `json:"label"`
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, field 22 of /proc/PID/stat
	Kept  bool   `json:"kept"`
}

func statePath(id string) string { return filepath.Join(stateDir, id+".json") }

func (l *Lab) writeState() error {
	start, err := processStart(os.Getpid())
	if err != nil {
		return fmt.Errorf("record lab: %w", err)
	}
	return writeState(l.id, state{Label: l.label, PID: os.Getpid(), Start: start, Kept: l.kept})
}

func writeState(id string, s state) error {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return fmt.Errorf("record lab: %w", err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("record lab: %w", err)
	}
	// Written aside and renamed: a sweep at this moment must not read half a record.
	aside := statePath(id) + ".new"
	if err := os.WriteFile(aside, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("record lab: %w", err)
	}
	if err := os.Rename(aside, statePath(id)); err != nil {
		return fmt.Errorf("record lab: %w", err)
	}
	return nil
}

func removeState(id string) error {
	if err := os.Remove(statePath(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of lab: %w", err)
	}
	// The directory goes with its last record; that others are left is no error.
	os.Remove(stateDir)
	return nil
}

// Sweep removes the labs whose creator is gone and returns their names; with kept also those that Keep left behind.
func Sweep(kept bool) ([]string, error) {
	ids, err := labIDs()
	if err != nil {
		return nil, err
	}
	var swept []string
	var errs []error
	for id, pid := range ids {
		if !stale(id, pid, kept) {
			continue
		}
		if err := sweep(id); err != nil {
			errs = append(errs, fmt.Errorf("sweep %s: %w", id, err))
			continue
		}
		swept = append(swept, id)
	}
	return swept, errors.Join(errs...)
}

func sweep(id string) error {
	errs := []error{killMarked(id)}
	for _, name := range namespacesOf(id) {
		// A name with no namespace behind it (after a restart) cannot be entered and has no links.
		if ns, err := os.Open(filepath.Join(netnsDir, name)); err == nil {
			inNamespace(ns, deleteLinks)
			ns.Close()
		}
		errs = append(errs, removeNamespace(name))
	}
	return errors.Join(append(errs, removeState(id))...)
}

// stale reports that nobody is left to close the lab.
func stale(id string, pid int, kept bool) bool {
	text, err := os.ReadFile(statePath(id))
	var s state
	if err != nil || json.Unmarshal(text, &s) != nil {
		// No record: the process id in the name is all there is, so leave it while any such process lives.
		_, err := processStart(pid)
		return errors.Is(err, os.ErrNotExist)
	}
	start, err := processStart(s.PID)
	switch {
	case err == nil && start == s.Start:
		return false
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return false
	}
	return !s.Kept || kept
}

// labIDs lists all labs that have a record or a namespace, with the process id in their names.
func labIDs() (map[string]int, error) {
	ids := map[string]int{}
	for _, dir := range []string{stateDir, netnsDir} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("list labs: %w", err)
		}
		for _, e := range entries {
			if m := idRule.FindStringSubmatch(e.Name()); m != nil {
				ids[m[1]], _ = strconv.Atoi(m[2])
			}
		}
	}
	return ids, nil
}

func namespacesOf(id string) []string {
	entries, _ := os.ReadDir(netnsDir) // no directory, no namespaces
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), id+"-") {
			names = append(names, e.Name())
		}
	}
	return names
}

// Leftovers lists what exists of the lab with this ID, one line each: its record, namespaces, the links in them, and
// processes that belong to it or sit in one of its namespaces. After Close it is empty.
func Leftovers(id string) []string {
	var left []string
	if _, err := os.Stat(statePath(id)); err == nil {
		left = append(left, "record "+statePath(id))
	}
	inodes := map[string]bool{}
	for _, name := range namespacesOf(id) {
		left = append(left, "namespace "+name)
		ns, err := os.Open(filepath.Join(netnsDir, name))
		if err != nil {
			continue
		}
		inNamespace(ns, func() error {
			inode, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			inodes[inode] = true
			links, err := netlink.LinkList()
			for _, link := range links {
				if link.Attrs().Name != "lo" {
					left = append(left, fmt.Sprintf("link %s in %s", link.Attrs().Name, name))
				}
			}
			return err
		})
		ns.Close()
	}
	for _, pid := range processes() {
		inode, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if marked(pid, id) || err == nil && inodes[inode] {
			left = append(left, fmt.Sprintf("process %d %s", pid, processName(pid)))
		}
	}
	return left
}
