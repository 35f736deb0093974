//go:build race

package mmapbuf

const raceEnabled = true
