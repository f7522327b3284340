package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"
)

// kernel is what a machine needs of a kernel's packages.
type kernel struct {
	release string
	image   string   // path of the bootable file
	modules []module // in the order in which they can be loaded
}

type module struct {
	name string
	data []byte // ELF
}

// modulesFor lists the modules that a guest needs, beside those that they depend on. One that is not in the packages is
// taken to be built in; if it is not, the guest finds no NIC and says so.
func modulesFor(driver string) []string {
	return []string{"virtio_pci", "virtio_net", "veth", driver}
}

// unpacked are the folders of a kernel's modules that are taken out of its packages: a whole kernel has 400 MB.
var unpacked = []string{"/drivers/net/", "/drivers/virtio/", "/drivers/dca/", "/drivers/i2c/", "/drivers/ptp/", "/drivers/pps/", "/net/core/"}

// unpackKernel takes the image and the network drivers out of packages into dir, unless that was done before.
func unpackKernel(ctx context.Context, debs []string, dir string, names []string) (*kernel, error) {
	done := filepath.Join(dir, "done")
	if _, err := os.Stat(done); err != nil {
		for _, deb := range debs {
			if err := unpack(ctx, deb, dir); err != nil {
				return nil, fmt.Errorf("unpack %s: %w", deb, err)
			}
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return nil, err
		}
	}
	k := &kernel{}
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		base := filepath.Base(path)
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasPrefix(base, "vmlinuz"):
			k.image = path
		case strings.Contains(base, ".ko"):
			files[moduleName(path)] = path
			above, _, _ := strings.Cut(path, "/kernel/")
			k.release = filepath.Base(above)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if k.image == "" || k.release == "" {
		return nil, fmt.Errorf("%s has no kernel image or no modules", strings.Join(debs, ", "))
	}
	for _, name := range names {
		if files[name] == "" {
			continue
		}
		if err := k.add(name, files); err != nil {
			return nil, fmt.Errorf("modules of Linux %s: %w", k.release, err)
		}
	}
	return k, nil
}

// moduleName is the name that the kernel uses for the module in a file.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// unpack writes the wanted files of a package to dir.
func unpack(ctx context.Context, deb, dir string) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	files := tar.NewReader(out)
	for err == nil {
		var h *tar.Header
		if h, err = files.Next(); err != nil {
			break
		}
		if h.Typeflag == tar.TypeReg && wanted(h.Name) {
			err = writeFile(filepath.Join(dir, filepath.Clean("/"+h.Name)), files)
		}
	}
	if err == io.EOF {
		_, err = io.Copy(io.Discard, out) // the padding behind the last file
	} else {
		_ = cmd.Process.Kill()
	}
	return errors.Join(err, cmd.Wait())
}

func wanted(name string) bool {
	if base := filepath.Base(name); strings.HasPrefix(base, "vmlinuz") {
		return true
	}
	return strings.Contains(name, ".ko") && slices.ContainsFunc(unpacked, func(f string) bool { return strings.Contains(name, f) })
}

func writeFile(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// add appends a module after those that it depends on.
func (k *kernel) add(name string, files map[string]string) error {
	if slices.ContainsFunc(k.modules, func(m module) bool { return m.name == name }) {
		return nil
	}
	path := files[name]
	if path == "" {
		return fmt.Errorf("%s is not in the packages", name)
	}
	data, err := readModule(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	deps, err := dependencies(data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, d := range deps {
		if err := k.add(d, files); err != nil {
			return fmt.Errorf("%s needs %w", name, err)
		}
	}
	k.modules = append(k.modules, module{name, data})
	return nil
}

func readModule(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(path, ".xz") {
		return data, err
	}
	r, err := xz.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// dependencies reads the line depends of a module's section .modinfo (include/linux/module.h).
func dependencies(data []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	s := f.Section(".modinfo")
	if s == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := s.Data()
	if err != nil {
		return nil, err
	}
	for line := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(line, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(strings.ReplaceAll(string(list), "-", "_"), ","), nil
		}
	}
	return nil, nil
}
