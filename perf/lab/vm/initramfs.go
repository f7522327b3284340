package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Paths in the guest.
const (
	guestSluice  = "/bin/sluice"
	guestPlan    = "/plan.json"
	guestModules = "/modules" // files named in the order of loading
)

// writeInitramfs writes the whole file system of the guest.
func writeInitramfs(path string, s Scenario, k *kernel, o Options) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	a := &archive{w: w}
	for _, dir := range []string{"bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp"} {
		a.add(dir, modeDir|0o755, nil)
	}
	a.addFile("init", o.Init)
	a.addFile(guestSluice[1:], o.Sluice)
	for i, m := range k.modules {
		a.add(fmt.Sprintf("%s/%02d-%s.ko", guestModules[1:], i, m.name), modeFile|0o644, m.data)
	}
	plan, err := json.Marshal(s.Plan)
	a.add(guestPlan[1:], modeFile|0o644, plan)
	a.close()
	return errors.Join(err, a.err, w.Flush(), f.Close())
}

// Modes of archive members, of stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
)

// archive writes the cpio format "newc" that the kernel unpacks (Documentation/driver-api/early-userspace/buffer-format.rst).
// After an error it does nothing more.
type archive struct {
	w     io.Writer
	inode int
	size  int
	err   error
}

func (a *archive) addFile(name, path string) {
	data, err := os.ReadFile(path)
	if err != nil && a.err == nil {
		a.err = err
	}
	a.add(name, modeFile|0o755, data)
}

func (a *archive) add(name string, mode int, data []byte) {
	if a.err != nil {
		return
	}
	a.inode++
	links := 1
	// Fields of 8 hexadecimal digits: inode, mode, uid, gid, links, time, size, device twice, special device twice,
	// length of the name with its NUL, and a checksum that this kind does not use.
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", a.inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	a.write(append([]byte(name), 0))
	a.pad()
	a.write(data)
	a.pad()
}

func (a *archive) close() {
	a.add("TRAILER!!!", 0, nil)
}

func (a *archive) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(b)
		a.size += len(b)
	}
}

// pad fills up to a multiple of four bytes.
func (a *archive) pad() { a.write(make([]byte, -a.size&3)) }
