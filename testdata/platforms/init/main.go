// Command init is the first process of a virtual machine that runs test binaries
// and nothing else; see the script kernels. Its arguments are those of the test
// binaries, its environment is what the kernel did not know of its command line.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	code := 2
	if err := run(os.Args[1:]); err == nil {
		code = 0
	} else if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		code = exit.ExitCode()
	} else {
		fmt.Println("init:", err)
	}
	fmt.Println("init: exit status", code)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run(args []string) error {
	for _, m := range []struct{ what, where, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devtmpfs", "/dev", ""},
		{"tmpfs", "/tmp", ""},
		{"cgroup2", "/sys/fs/cgroup", ""},
	} {
		if err := os.MkdirAll(m.where, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.what, m.where, m.what, 0, m.options); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	// Without it, groups have no limit of memory.
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
		fmt.Println("init:", err)
	}
	up("lo")
	describe()

	binaries, err := filepath.Glob("/*.test")
	for _, binary := range binaries {
		cmd := exec.Command(binary, args...)
		cmd.Dir = "/mmapbuf"
		cmd.Env = append(os.Environ(), "HOME=/tmp", "PATH=/bin")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if failed := cmd.Run(); failed != nil {
			err = failed
		}
	}
	return err
}

// up brings a network interface up.
func up(name string) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return
	}
	defer unix.Close(s)
	if r, err := unix.NewIfreq(name); err == nil {
		r.SetUint16(unix.IFF_UP)
		_ = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	}
}

// describe prints what the tests run on.
func describe() {
	var u unix.Utsname
	_ = unix.Uname(&u)
	fmt.Println("init: kernel", unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:]))
	fmt.Println("init: page size", os.Getpagesize())
	for _, name := range []string{"enabled", "hpage_pmd_size"} {
		s, err := os.ReadFile("/sys/kernel/mm/transparent_hugepage/" + name)
		if err != nil {
			s = []byte("none")
		}
		fmt.Println("init: huge pages:", name, strings.TrimSpace(string(s)))
	}
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	fmt.Println("init: processors", strings.Count("\n"+string(cpu), "\nprocessor"),
		"la57", strings.Contains(string(cpu), " la57"))
	// With five levels the kernel's direct map begins elsewhere; it says so here.
	if s, err := os.ReadFile("/proc/meminfo"); err == nil {
		line, _, _ := strings.Cut(string(s), "\n")
		fmt.Println("init:", line)
	}
}
