package ctl

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"sluice/engine"
	"sluice/flow"
)

// An orderly end takes the tables away, and with them the entries of persistence: those go on in a file under /run/sluice, by
// their values, for a start that comes before their time is over. After a kill the tables themselves are read (tables.go).

// persistenceNote is the first line of the file; the entries follow, persistenceRow bytes each, little-endian.
type persistenceNote struct {
	Version int
	Cookie  uint64 // of the network namespace
	Boot    string // entries are on its clock
	IDs     []engine.Entry
	Entries int
}

const (
	persistenceNoteVersion = 1
	persistenceRow         = 40 // client, kind, node, used, whether it was used again
)

func persistencePath(base string) string { return base + ".persistence" }

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}

// savePersistence writes the entries of an engine that is stopped. Without any there is no file.
func (s *Server) savePersistence() error {
	path := persistencePath(strings.TrimSuffix(s.state.path, ".json"))
	list, err := s.engine.AllPersistence(context.Background())
	if err != nil {
		return err
	}
	if len(list) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the entries of persistence: %w", err)
		}
		return nil
	}
	n := persistenceNote{Version: persistenceNoteVersion, Cookie: namespaceCookie(), Entries: len(list)}
	if n.Boot, err = bootID(); err != nil {
		return err
	}
	for _, e := range s.dict.Entries(0) {
		if e.Kind == "persistence" || e.Kind == "node" {
			n.IDs = append(n.IDs, e)
		}
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	le := binary.LittleEndian
	for i := range list {
		e := &list[i]
		b = le.AppendUint64(le.AppendUint64(b, e.Client.Hi), e.Client.Lo)
		b = le.AppendUint32(le.AppendUint32(b, e.Kind), e.Node)
		again := uint64(0)
		if e.Again {
			again = 1
		}
		b = le.AppendUint64(le.AppendUint64(b, e.Used), again)
	}
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return errors.Join(fmt.Errorf("keep the entries of persistence: %w", err), os.Remove(path+".new"))
	}
	return os.Rename(path+".new", path)
}

// loadPersistence reads the entries that an orderly end has left, and gives what they name ids of dict.
func loadPersistence(base string, dict *engine.Dictionary) ([]flow.PersistenceEntry, error) {
	b, err := os.ReadFile(persistencePath(base))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	line, rows, _ := bytes.Cut(b, []byte("\n"))
	var n persistenceNote
	if err := json.Unmarshal(line, &n); err != nil {
		return nil, fmt.Errorf("%s: %w", persistencePath(base), err)
	}
	boot, err := bootID()
	if err != nil || n.Boot != boot || n.Cookie != namespaceCookie() {
		return nil, err // of another boot or namespace
	}
	if n.Version != persistenceNoteVersion || len(rows) != n.Entries*persistenceRow {
		return nil, fmt.Errorf("%s: version %d with %d bytes for %d entries", persistencePath(base), n.Version, len(rows), n.Entries)
	}
	ids := map[string]map[uint32]uint32{"persistence": {}, "node": {}}
	for _, e := range n.IDs {
		if of, ok := ids[e.Kind]; ok {
			of[e.ID] = dict.Give(e)
		}
	}
	le := binary.LittleEndian
	out := make([]flow.PersistenceEntry, 0, n.Entries)
	for ; len(rows) > 0; rows = rows[persistenceRow:] {
		e := flow.PersistenceEntry{
			Client: flow.Addr{Hi: le.Uint64(rows), Lo: le.Uint64(rows[8:])},
			Kind:   ids["persistence"][le.Uint32(rows[16:])], Node: ids["node"][le.Uint32(rows[20:])],
			Used: le.Uint64(rows[24:]), Again: le.Uint64(rows[32:]) == 1,
		}
		if e.Kind != 0 && e.Node != 0 {
			out = append(out, e)
		}
	}
	return out, nil
}
