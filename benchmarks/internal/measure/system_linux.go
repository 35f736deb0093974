package measure

import "golang.org/x/sys/unix"

// faults returns how many page faults of this process did not need a disk.
func faults() int64 {
	var usage unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &usage) // fails for no valid arguments
	return int64(usage.Minflt)
}

// Warm touches n bytes of memory and returns them to the system. A virtual
// machine may have returned its free memory to the host. Without Warm, the first
// run would measure how fast the host provides memory. The memory is neither of the
// Go heap nor of a Buffer: both would remember that they have been large.
func Warm(n int64) error {
	if n <= 0 {
		return nil
	}
	p, err := unix.Mmap(-1, 0, int(n), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	_ = unix.Madvise(p, unix.MADV_HUGEPAGE) // is faster, where there are huge pages
	for i := 0; i < len(p); i += unix.Getpagesize() {
		p[i] = 1
	}
	return unix.Munmap(p)
}
