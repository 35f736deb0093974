//go:build linux

// Command seccomp runs a program under the seccomp profile that Docker gives its
// containers, without capabilities:
//
//	seccomp default.json zsysnum.go program [argument...]
//
// The first file is the profile, of module github.com/moby/profiles/seccomp; the
// second says which number a call has here, as zsysnum_linux_amd64.go of
// golang.org/x/sys/unix does. A call is allowed whatever its arguments, if some
// are.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

type profile struct {
	DefaultErrnoRet uint32
	Syscalls        []struct {
		Names    []string
		Action   string
		ErrnoRet uint32
		Includes struct {
			Caps   []string
			Arches []string
		}
	}
}

func main() {
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "seccomp:", err)
		os.Exit(1)
	}
}

func run(profileName, numbersName string, args []string) error {
	s, err := os.ReadFile(profileName)
	if err != nil {
		return err
	}
	var p profile
	if err := json.Unmarshal(s, &p); err != nil {
		return err
	}
	if s, err = os.ReadFile(numbersName); err != nil {
		return err
	}
	numbers := map[string]uint32{}
	for _, m := range regexp.MustCompile(`SYS_(\w+)\s*= (\d+)`).FindAllStringSubmatch(string(s), -1) {
		n, err := strconv.ParseUint(m[2], 10, 32)
		if err != nil {
			return err
		}
		numbers[strings.ToLower(m[1])] = uint32(n)
	}

	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	prog := []unix.SockFilter{{Code: load, K: 0}} // the number of the call
	known := 0
	for _, rule := range p.Syscalls {
		if len(rule.Includes.Caps) > 0 || len(rule.Includes.Arches) > 0 && !slices.Contains(rule.Includes.Arches, runtime.GOARCH) {
			continue
		}
		verdict := uint32(unix.SECCOMP_RET_ALLOW)
		if rule.Action != "SCMP_ACT_ALLOW" {
			verdict = unix.SECCOMP_RET_ERRNO | rule.ErrnoRet
		}
		for _, name := range rule.Names {
			if n, ok := numbers[name]; ok {
				known++
				prog = append(prog, unix.SockFilter{Code: jeq, K: n, Jf: 1}, unix.SockFilter{Code: ret, K: verdict})
			}
		}
	}
	prog = append(prog, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | p.DefaultErrnoRet})
	if known < 200 {
		return fmt.Errorf("only %d calls are known", known)
	}

	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})))
	if errno != 0 {
		return errno
	}
	return syscall.Exec(program, args, os.Environ())
}
