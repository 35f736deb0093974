//go:build !linux

package buffers

var mappings []Kind
