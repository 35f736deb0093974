//go:build !unix

package system

import "time"

func cpu() time.Duration { return 0 }
