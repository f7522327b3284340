package ctl

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// tableStore keeps the connection tables of a network namespace in files, so that they outlive a killed process:
//
//	/run/sluice/net-<inode>.tables/          a tmpfs of its own, with huge pages, mode 0700
//	    dictionary.<generation>              a line of JSON for the ports, then one per id, written before its first use
//	    worker-<n>.<generation>              a header, then the table
//
// Each start writes a new generation. Its tables are ready when all connections of the one before have been entered;
// only then is the old one removed. A start that is killed in between leaves the old one in force.
type tableStore struct {
	dir        string
	generation int
	boot       [16]byte
	made       int // table files of this generation, ever
	dictionary *os.File
	logged     int // entries of the dictionary that are written
	log        *slog.Logger
}

// Kinds of table files. A generation is complete when all tables of its workers are ready; while workers are scaled, tables
// that are not ready yet are fresh ones, so that an engine that is killed in the middle leaves its connections all the same.
const workerTable, freshTable = "worker-", "fresh-"

// savedTables is what an earlier engine left.
type savedTables struct {
	maps    []rings.Mapping
	records [][]flow.Record
	entries []flow.PersistenceEntry
	ports   []string
	inUse   *engine.InUse
}

// openTables opens the store, mounting its tmpfs if need be. Without a tmpfs there is no store: on a disk, the table
// would be written out for ever.
func openTables(state *kernelState, log *slog.Logger) (*tableStore, error) {
	s := &tableStore{dir: strings.TrimSuffix(state.path, ".json") + ".tables", log: log}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	if !isTmpfs(s.dir) || !isMount(s.dir) {
		err := unix.Mount("sluice", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700,huge=always,size=100%")
		switch {
		case err != nil && !isTmpfs(s.dir):
			return nil, errors.Join(fmt.Errorf("mount a tmpfs on %s%s: %w", s.dir, rootHint(err), err), os.Remove(s.dir))
		case err != nil:
			log.Info("connection tables are kept on the tmpfs that is there: without huge pages, and within its size", "folder", s.dir, "reason", err)
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(s.dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o077 != 0 {
		return nil, fmt.Errorf("%s is not a folder of ours alone (mode 0700)", s.dir)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	hex := strings.NewReplacer("-", "", "\n", "").Replace(string(boot))
	for i := range s.boot {
		b, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			return nil, fmt.Errorf("read the boot id: %w", err)
		}
		s.boot[i] = byte(b)
	}
	return s, nil
}

func isTmpfs(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}

// isMount reports whether path is where a file system is mounted.
func isMount(path string) bool {
	var a, b unix.Stat_t
	return unix.Stat(path, &a) == nil && unix.Stat(filepath.Dir(path), &b) == nil && a.Dev != b.Dev
}

func (s *tableStore) path(name string, generation int) string {
	return filepath.Join(s.dir, name+"."+strconv.Itoa(generation))
}

// generations lists those that are there.
func (s *tableStore) generations() (map[int][]string, error) {
	list, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	out := map[int][]string{}
	for _, e := range list {
		name, gen, ok := strings.Cut(e.Name(), ".")
		if n, err := strconv.Atoi(gen); ok && err == nil {
			out[n] = append(out[n], name)
		}
	}
	return out, nil
}

// load reads the newest complete generation into dict, and begins a new one. What cannot be used is set aside, by name.
func (s *tableStore) load(dict *engine.Dictionary) (*savedTables, error) {
	gens, err := s.generations()
	if err != nil {
		return nil, err
	}
	best := 0
	for g, names := range gens {
		s.generation = max(s.generation, g)
		if g > best && s.complete(g, names) {
			best = g
		}
	}
	s.generation++
	saved := &savedTables{inUse: engine.NewInUse()}
	if best == 0 {
		return saved, nil
	}
	if saved.ports, err = s.readDictionary(best, dict); err != nil {
		s.log.Warn("the connections of an earlier sluice are set aside", "reason", err)
		return saved, nil
	}
	for _, name := range gens[best] {
		if !strings.HasPrefix(name, workerTable) {
			continue
		}
		m, capacity, records, err := s.openTable(s.path(name, best))
		if err != nil {
			s.log.Warn("a connection table of an earlier sluice is set aside", "file", s.path(name, best), "reason", err)
			continue
		}
		saved.maps, saved.records = append(saved.maps, m), append(saved.records, records)
		saved.inUse.Survey(records, dict)
		entries, unsound, err := flow.ReadPersistence(flow.PersistenceMemory(m.Bytes[flow.HeaderSize:], capacity), math.MaxInt32)
		if err != nil || unsound > 0 {
			s.log.Warn("persistence entries of an earlier sluice are set aside", "file", s.path(name, best), "unsound", unsound, "reason", err)
		}
		saved.entries = append(saved.entries, entries...)
	}
	return saved, nil
}

// complete reports whether every table of a generation is ready.
func (s *tableStore) complete(generation int, names []string) bool {
	n := 0
	for _, name := range names {
		if !strings.HasPrefix(name, workerTable) {
			continue
		}
		b := make([]byte, flow.HeaderSize)
		f, err := s.open(s.path(name, generation))
		if err != nil {
			return false
		}
		_, err = f.ReadAt(b, 0)
		f.Close()
		if err != nil || !flow.IsReady(b) {
			return false
		}
		n++
	}
	return n > 0
}

// open opens a file of the store, not following links, if it is ours.
func (s *tableStore) open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || int(st.Uid) != os.Geteuid() || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close()
		return nil, fmt.Errorf("%s is not a file of ours", path)
	}
	return f, nil
}

func (s *tableStore) openTable(path string) (m rings.Mapping, capacity int, records []flow.Record, err error) {
	f, err := s.open(path)
	if err != nil {
		return rings.Mapping{}, 0, nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return rings.Mapping{}, 0, nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return rings.Mapping{}, 0, nil, fmt.Errorf("map %s: %w", path, err)
	}
	h, records, err := flow.ReadFile(b)
	if err == nil && h.Boot != s.boot {
		err = errors.New("it is from before the last boot")
	}
	if err != nil {
		return rings.Mapping{}, 0, nil, errors.Join(err, unix.Munmap(b))
	}
	return rings.Mapping{Bytes: b, FD: -1}, h.Capacity, records, nil
}

// portsLine is the first line of a dictionary.
type portsLine struct {
	Ports []string `json:"ports"`
}

func (s *tableStore) readDictionary(generation int, dict *engine.Dictionary) ([]string, error) {
	f, err := s.open(s.path("dictionary", generation))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	var ports portsLine
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &ports) != nil {
		return nil, fmt.Errorf("%s has no list of ports", f.Name())
	}
	for lines.Scan() {
		var e engine.Entry
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			break // the last line of a killed process, which no record refers to
		}
		if !dict.Restore(e) {
			return nil, fmt.Errorf("%s contradicts itself at %s", f.Name(), lines.Text())
		}
	}
	return ports.Ports, lines.Err()
}

// begin writes the dictionary of the new generation.
func (s *tableStore) begin(ports []string, dict *engine.Dictionary) error {
	f, err := os.OpenFile(s.path("dictionary", s.generation), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("keep the connection table: %w", err)
	}
	s.dictionary = f
	b, err := json.Marshal(portsLine{ports})
	if err != nil {
		return err
	}
	if _, err := f.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", f.Name(), err)
	}
	return s.note(dict)
}

// note appends the ids given since the last time. It must come before workers get the configuration that uses them.
func (s *tableStore) note(dict *engine.Dictionary) error {
	var out []byte
	fresh := dict.Entries(s.logged)
	for _, e := range fresh {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		out = append(append(out, b...), '\n')
	}
	if _, err := s.dictionary.Write(out); err != nil {
		return fmt.Errorf("write %s: %w", s.dictionary.Name(), err)
	}
	s.logged += len(fresh)
	return nil
}

// create makes the file of a table for capacity connections, with size bytes for it and what follows it. Its place in the generation is its own: while workers are
// scaled there are the tables of both.
func (s *tableStore) create(kind string, capacity, size int, secret flow.Secret) (tableMemory, error) {
	path := s.path(fmt.Sprintf("%s%d", kind, s.made), s.generation)
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return tableMemory{}, fmt.Errorf("make %s: %w", path, err)
	}
	s.made++
	m, err := rings.MapFile(fd, flow.HeaderSize+size)
	if err != nil {
		return tableMemory{}, errors.Join(fmt.Errorf("map %s: %w", path, err), os.Remove(path))
	}
	m.Pages = "file on tmpfs"
	h := flow.Header{Capacity: capacity, Secret: secret, Boot: s.boot}
	h.Put(m.Bytes)
	return tableMemory{Mapping: m, flows: m.Bytes[flow.HeaderSize:], path: path}, nil
}

// ready puts the new generation in force and removes all others.
func (s *tableStore) ready(tables []tableMemory) error {
	for _, t := range tables {
		flow.SetReady(t.Bytes)
	}
	return s.removeExcept(s.generation)
}

func (s *tableStore) removeExcept(generation int) error {
	gens, err := s.generations()
	if err != nil {
		return err
	}
	var errs []error
	for g, names := range gens {
		for _, name := range names {
			if g != generation {
				errs = append(errs, os.Remove(s.path(name, g)))
			}
		}
	}
	return errors.Join(errs...)
}

// close ends the store, whose tables must have been unmapped; with remove it is taken away: an orderly end has no successor.
func (s *tableStore) close(remove bool) error {
	if s == nil {
		return nil
	}
	var errs []error
	if s.dictionary != nil {
		errs = append(errs, s.dictionary.Close())
		s.dictionary = nil
	}
	if remove {
		errs = append(errs, removeTables(s.dir))
	}
	return errors.Join(errs...)
}

// removeTables takes a store away.
func removeTables(dir string) error {
	if isMount(dir) {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EPERM) {
			return emptyFolder(dir) // it was mounted by `sluice prepare`
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the connection tables: %w", err)
	}
	return nil
}

// emptyFolder removes the files in a folder.
func emptyFolder(dir string) error {
	list, err := os.ReadDir(dir)
	errs := []error{err}
	for _, e := range list {
		errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// unkept is why a process with those capabilities cannot keep connection tables or pin programs, or nothing.
func unkept(capabilities uint64) string {
	if capabilities&(1<<unix.CAP_SYS_ADMIN) != 0 {
		return ""
	}
	base, err := stateBase()
	if err != nil {
		return err.Error()
	}
	place := base + ".tables"
	if !isMount(place) {
		place = StateDir
	}
	if !isTmpfs(place) || unix.Access(place, unix.W_OK|unix.X_OK) != nil {
		return fmt.Sprintf("this user has no tmpfs of its own at %s.tables for connection tables, and may not mount one", base)
	}
	if err := rings.CanPin(); err != nil {
		return err.Error()
	}
	return ""
}

// unmap gives back what was read.
func (t *savedTables) unmap() error {
	var errs []error
	for _, m := range t.maps {
		errs = append(errs, unix.Munmap(m.Bytes))
	}
	t.maps, t.records = nil, nil
	return errors.Join(errs...)
}

// portsNow maps the ports of the saved records to those of the file.
func (t *savedTables) portsNow(f *File) []int {
	out := make([]int, len(t.ports))
	for i, name := range t.ports {
		out[i] = -1
		if j, ok := f.portNumber(name); ok {
			out[i] = j
		}
	}
	return out
}
