package measure

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
)

// hugePages is the file with the setting of transparent huge pages. Only tests
// change the name.
var hugePages = "/sys/kernel/mm/transparent_hugepage/enabled"

// HugePages returns the setting of transparent huge pages, which is always, madvise
// or never. It is empty if the system has none.
func HugePages() string {
	// The current setting is in brackets: always [madvise] never.
	file, _ := os.ReadFile(hugePages)
	setting := regexp.MustCompile(`\[(\w+)\]`).FindSubmatch(file)
	if setting == nil {
		return ""
	}
	return string(setting[1])
}

// WithHugePages does work while the whole system has another setting of transparent
// huge pages, which requires root. It sets the former one again when work returns or
// panics. Until then signals do not end the process, apart from SIGKILL and SIGQUIT:
// Main ends the context of work instead.
func WithHugePages(setting string, work func() error) (err error) {
	before := HugePages()
	if before == "" {
		return errors.New("the system has no transparent huge pages")
	}
	signals := make(chan os.Signal, 1)
	// With SIGPIPE, also output that nobody reads does not end the process.
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer signal.Stop(signals)
	if err := setHugePages(setting); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, setHugePages(before)) }()
	return work()
}

func setHugePages(setting string) error {
	if err := os.WriteFile(hugePages, []byte(setting), 0o644); err != nil {
		return fmt.Errorf("setting transparent huge pages to %s: %w", setting, err)
	}
	return nil
}
