package link

// gaps reads the clock until a moment, and notes in list by how many nanoseconds two readings were apart where that is least or more. It
// returns how many it noted; it ends when the list is full. As in trips_unsafe.go the runtime takes it for one long system call, since its
// monitor would take the core away a hundred times a second.
//
//go:norace
func gaps(until, least int64, list []int64) (n int) {
	entersyscallblock()
	for last := nanotime(); n < len(list); {
		now := nanotime()
		if now-last >= least {
			list[n] = now - last
			n++
		}
		if last = now; now >= until {
			break
		}
	}
	exitsyscall()
	return n
}
