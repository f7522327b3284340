package rings

import (
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Region is the one memory mapping that holds all frames of an engine. It is a memfd mapped shared, so that a
// successor process can map the same frames again. Frames are numbered; frame i starts at byte i*FrameSize.
//
// The Region itself has no owner: each frame belongs to whoever holds its descriptor.
type Region struct {
	mem       []byte
	fd        int
	frameSize int
	pages     Pages
	links     []hop // of chains, by frame; nil: there are none (chain.go)
	shift     uint8 // frame number from address
}

// Pages says what kind of memory a mapping got.
type Pages string

// Kinds of memory, best first.
const (
	PagesHuge        Pages = "huge pages (hugetlbfs)"
	PagesTransparent Pages = "transparent huge pages (tmpfs)"
	PagesSmall       Pages = "ordinary pages"
	PagesHeap        Pages = "ordinary memory"
)

const hugePageSize = 2 << 20

// NewRegion makes a region of frames frames of frameSize bytes (2048 or 4096). With huge set it tries huge pages
// first, as MapShared does; Pages says what it got.
func NewRegion(frames, frameSize int, huge bool, folders ...string) (*Region, error) {
	if frames < 1 || (frameSize != 2048 && frameSize != 4096) {
		return nil, fmt.Errorf("a region needs at least one frame of 2048 or 4096 bytes, not %d of %d", frames, frameSize)
	}
	m, err := MapShared("sluice-frames", frames*frameSize, huge, folders...)
	if err != nil {
		return nil, err
	}
	return &Region{mem: m.Bytes[:frames*frameSize], fd: m.FD, frameSize: frameSize, shift: shiftOf(frameSize), pages: m.Pages}, nil
}

// shiftOf is by how many bits a frame's number has to be shifted to be its address.
func shiftOf(frameSize int) uint8 { return uint8(bits.TrailingZeros(uint(frameSize))) }

// NewHeapRegion makes a region in ordinary memory, for the drivers that need no kernel.
func NewHeapRegion(frames, frameSize int) *Region {
	return &Region{mem: make([]byte, frames*frameSize), fd: -1, frameSize: frameSize, shift: shiftOf(frameSize), pages: PagesHeap}
}

// Frames is the number of frames.
func (r *Region) Frames() int { return len(r.mem) / r.frameSize }

// FrameSize is the size of each frame in bytes.
func (r *Region) FrameSize() int { return r.frameSize }

// Pages says what memory the region got.
func (r *Region) Pages() Pages { return r.pages }

// Bytes is the whole memory.
func (r *Region) Bytes() []byte { return r.mem }

// Packet is the bytes that d names. It panics when d lies outside the region, which only a broken driver can do.
func (r *Region) Packet(d Desc) []byte {
	return r.mem[d.Addr : d.Addr+uint64(d.Len) : d.Addr+uint64(d.Len)]
}

// Base is the address of the first byte of the frame in which addr lies.
func (r *Region) Base(addr uint64) uint64 { return addr &^ uint64(r.frameSize-1) }

// Frame is the whole frame in which addr lies.
func (r *Region) Frame(addr uint64) []byte {
	b := r.Base(addr)
	return r.mem[b : b+uint64(r.frameSize)]
}

// Close unmaps the memory. No socket may be using it any more.
func (r *Region) Close() error {
	if r.fd < 0 || r.mem == nil {
		return nil
	}
	err := errors.Join(unix.Munmap(r.mem[:cap(r.mem)]), unix.Close(r.fd))
	r.mem, r.fd = nil, -1
	return err
}

// Audit checks that the pools together hold every frame of the region exactly once. It is what remains true
// after every queue has been closed and every handoff ring drained.
func (r *Region) Audit(pools ...*Pool) error {
	seen := make([]uint8, r.Frames())
	for _, p := range pools {
		for _, addr := range p.free {
			i := addr / uint64(r.frameSize)
			switch {
			case addr%uint64(r.frameSize) != 0 || i >= uint64(len(seen)):
				return fmt.Errorf("free frame %#x is not the start of a frame", addr)
			case seen[i] != 0:
				return fmt.Errorf("frame %d is free twice", i)
			}
			seen[i] = 1
		}
	}
	if n := r.Links(); n != 0 {
		return fmt.Errorf("%d free frames hang on others", n)
	}
	missing := 0
	for _, s := range seen {
		if s == 0 {
			missing++
		}
	}
	if missing != 0 {
		return fmt.Errorf("%d of %d frames are missing", missing, len(seen))
	}
	return nil
}

// Mapping is shared memory outside the Go heap.
type Mapping struct {
	Bytes []byte
	FD    int
	Pages Pages
}

// MapShared maps size bytes of zeroed shared memory. With huge set it tries, in this order, the pool of huge pages, a
// tmpfs of its own that uses transparent huge pages (needs CAP_SYS_ADMIN), one of folders, where somebody else has mounted such a
// tmpfs, and ordinary shared memory with the wish for them, which kernels by default ignore.
func MapShared(name string, size int, huge bool, folders ...string) (Mapping, error) {
	if huge {
		rounded := (size + hugePageSize - 1) &^ (hugePageSize - 1)
		if fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB); err == nil {
			if m, err := mapFile(fd, rounded); err == nil {
				m.Pages = PagesHuge
				return m, nil
			}
		}
		if fd, err := hugeTmpfile(folders); err == nil {
			if m, err := mapFile(fd, rounded); err == nil {
				m.Pages = PagesTransparent
				return m, nil
			}
		}
	}
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return Mapping{}, fmt.Errorf("map %d bytes of shared memory: %w", size, err)
	}
	m, err := mapFile(fd, size)
	if err != nil {
		return Mapping{}, fmt.Errorf("map %d bytes of shared memory: %w", size, err)
	}
	m.Pages = PagesSmall
	return m, nil
}

// hugeTmpfile makes a file without a name on a tmpfs with huge pages: it goes with its last user. The tmpfs is mounted nowhere,
// or is that of a folder.
func hugeTmpfile(folders []string) (int, error) {
	mnt, err := hugeTmpfs()
	if err == nil {
		defer unix.Close(mnt)
		return unix.Openat(mnt, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	for _, folder := range folders {
		var fs unix.Statfs_t
		if unix.Statfs(folder, &fs) != nil || fs.Type != unix.TMPFS_MAGIC {
			continue
		}
		if fd, err := unix.Open(folder, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err == nil {
			return fd, nil
		}
	}
	return -1, err
}

func hugeTmpfs() (int, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := errors.Join(unix.FsconfigSetString(fs, "huge", "always"), unix.FsconfigCreate(fs)); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
}

// MapFile makes fd, which it takes over, a file of size bytes, maps it shared and takes the memory now.
func MapFile(fd, size int) (Mapping, error) { return mapFile(fd, size) }

func mapFile(fd, size int) (Mapping, error) {
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return Mapping{}, errors.Join(err, unix.Close(fd))
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return Mapping{}, errors.Join(err, unix.Close(fd))
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // only faster
	if err := populate(b); err != nil {
		return Mapping{}, errors.Join(err, unix.Munmap(b), unix.Close(fd))
	}
	return Mapping{Bytes: b, FD: fd}, nil
}

// populate takes the memory now, so that a shortage is an error at start and not a SIGBUS on the packet path.
func populate(b []byte) error {
	err := unix.Madvise(b, unix.MADV_POPULATE_WRITE) // from 5.14
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 0
	}
	return nil
}

// Unmap gives the memory back.
func (m Mapping) Unmap() error {
	return errors.Join(unix.Munmap(m.Bytes), unix.Close(m.FD))
}
