package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	mirror  = "http://deb.debian.org/debian"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// freshTime is how long a fetched kernel is used before apt is asked for a newer one.
	freshTime = 7 * 24 * time.Hour
)

// apt runs the programs of apt with lists, cache and a package database of its own: it sees nothing of the host's
// packages and changes none.
type apt struct {
	dir  string
	conf string
}

// newAPT prepares a directory for apt. status is the database of installed packages; empty means none.
func newAPT(dir, status string, suites ...string) (*apt, error) {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, unavailable("%s is needed to fetch packages of Debian", tool)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: dir, conf: filepath.Join(dir, "apt.conf")}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	signed := ""
	if _, err := os.Stat(keyring); err == nil {
		signed = " signed-by=" + keyring
	}
	var sources strings.Builder
	for _, s := range suites {
		fmt.Fprintf(&sources, "deb [arch=amd64%s] %s %s main\n", signed, mirror, s)
	}
	if status == "" {
		status = filepath.Join(dir, "state/status")
		if err := os.WriteFile(status, nil, 0o644); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`APT::Architecture "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "2";
Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "%[1]s/state";
Dir::State::status "%[2]s";
Dir::Cache "%[1]s/cache";
`, dir, status)
	return a, errors.Join(os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources.String()), 0o644), os.WriteFile(a.conf, []byte(conf), 0o644))
}

func (a *apt) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// depends lists what a package depends on.
func (a *apt) depends(ctx context.Context, pkg string) ([]string, error) {
	out, err := a.run(ctx, "apt-cache", "depends", "--important", pkg)
	if err != nil {
		return nil, err
	}
	return parseDepends(out), nil
}

// parseDepends reads the output of apt-cache depends. Alternatives, marked by a bar, are left to the last of them.
func parseDepends(out string) (names []string) {
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && !strings.HasPrefix(name, "<") {
			names = append(names, name)
		}
	}
	return names
}

// kernelPackages resolves the metapackage of the newest kernel to the packages that have its image and modules. Newer
// releases keep them in packages of their own, linux-binary and linux-modules.
func (a *apt) kernelPackages(ctx context.Context) ([]string, error) {
	meta, err := a.depends(ctx, "linux-image-amd64")
	if err != nil {
		return nil, err
	}
	for _, image := range meta {
		if !strings.HasPrefix(image, "linux-image-") {
			continue
		}
		pkgs := []string{image}
		deps, err := a.depends(ctx, image)
		if err != nil {
			return nil, err
		}
		for _, d := range deps {
			if strings.HasPrefix(d, "linux-binary-") || strings.HasPrefix(d, "linux-modules-") {
				pkgs = append(pkgs, d)
			}
		}
		return pkgs, nil
	}
	return nil, fmt.Errorf("linux-image-amd64 depends on no kernel: %q", meta)
}

// fetchKernel returns the packages of a release's kernel, as paths of files in the cache.
func fetchKernel(ctx context.Context, r Release, o Options) ([]string, error) {
	dir := filepath.Join(o.Cache, r.Name)
	list := filepath.Join(dir, "packages.json")
	cached, fresh := readList(list)
	if fresh {
		return cached, nil
	}
	debs, err := download(ctx, dir, r.Suite, o)
	if err != nil {
		if len(cached) > 0 {
			o.Log("%s: the kernel that is in the cache is used: %v", r.Name, err)
			return cached, nil
		}
		return nil, unavailable("fetch the kernel of Debian %s: %w", r.Name, err)
	}
	text, err := json.Marshal(debs)
	if err != nil {
		return nil, err
	}
	return debs, os.WriteFile(list, text, 0o644)
}

func readList(path string) (debs []string, fresh bool) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, false
	}
	text, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(text, &debs) != nil {
		return nil, false
	}
	for _, d := range debs {
		if _, err := os.Stat(d); err != nil {
			return nil, false
		}
	}
	return debs, time.Since(info.ModTime()) < freshTime
}

func download(ctx context.Context, dir, suite string, o Options) ([]string, error) {
	a, err := newAPT(dir, "", suite)
	if err != nil {
		return nil, err
	}
	o.Log("fetching the kernel of Debian %s into %s", suite, dir)
	if _, err := a.run(ctx, "apt-get", "update"); err != nil {
		return nil, err
	}
	pkgs, err := a.kernelPackages(ctx)
	if err != nil {
		return nil, err
	}
	// What an earlier run fetched and unpacked would be found beside the new.
	old, _ := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	for _, path := range append(old, filepath.Join(a.dir, "root")) {
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	if _, err := a.run(ctx, "apt-get", append([]string{"download"}, pkgs...)...); err != nil {
		return nil, err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err == nil && len(debs) != len(pkgs) {
		err = fmt.Errorf("apt-get download left %q, not %d packages", debs, len(pkgs))
	}
	return debs, err
}

const qemuName = "qemu-system-x86_64"

// findQEMU returns a QEMU that emulates igb, which came with version 8. As root on Debian it installs one.
func findQEMU(ctx context.Context, o Options) (string, error) {
	path, err := usableQEMU(ctx)
	if err == nil {
		return path, nil
	}
	release, _ := os.ReadFile("/etc/os-release")
	if os.Geteuid() != 0 || !strings.Contains(string(release), "\nVERSION_CODENAME=bookworm") {
		return "", unavailable("%w; install QEMU 8 or newer (Debian's package qemu-system-x86)", err)
	}
	a, aptErr := newAPT(filepath.Join(o.Cache, "qemu"), "/var/lib/dpkg/status", "bookworm", "bookworm-updates", "bookworm-backports")
	if aptErr != nil {
		return "", aptErr
	}
	o.Log("%v: installing it", err)
	_, err = a.run(ctx, "apt-get", "update")
	if err == nil {
		_, err = a.run(ctx, "apt-get", "install", "-y", "--no-install-recommends", "-t", "bookworm-backports", "qemu-system-x86")
	}
	if err != nil {
		return "", unavailable("install QEMU: %w", err)
	}
	if path, err = usableQEMU(ctx); err != nil {
		return "", unavailable("%w, although it was installed", err)
	}
	return path, nil
}

func usableQEMU(ctx context.Context) (string, error) {
	path, err := exec.LookPath(qemuName)
	if err != nil {
		return "", fmt.Errorf("%s is not there", qemuName)
	}
	out, err := exec.CommandContext(ctx, path, "-device", "help").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -device help: %w", path, err)
	}
	if !strings.Contains(string(out), `name "igb"`) {
		return "", fmt.Errorf("%s does not emulate igb", path)
	}
	return path, nil
}
