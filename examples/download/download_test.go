package main

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/commandtest"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

// A download takes as much memory as the object and a tenth more, in which the
// SDK has its own buffers: 32 KiB for each of five workers, and what is garbage
// before the collector runs.
func TestMemory(t *testing.T) {
	var b mmapbuf.Buffer
	b.Grow(2 << 20)
	mapped := mmapbuf.ReadStats().MappedBytes > 0
	require.NoError(t, b.Close())
	if !mapped {
		t.Skip("no mappings on this system")
	}
	const size = 256 << 20
	handler, sum, err := serveObject(size)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	defer server.Close()
	var got measure.Figures
	_, err = measure.Run(t.Context(), job{"mmapbuf.Buffer", server.URL, size, sum}, &got)
	require.NoError(t, err)
	t.Logf("%+v", got)
	assert.Greater(t, got.Peak, int64(size*9/10))
	assert.LessOrEqual(t, got.Peak, int64(size*11/10))
	assert.Less(t, got.Allocated, int64(size/10))
}

// A child compares what it has downloaded.
func TestWrongSum(t *testing.T) {
	handler, sum, err := serveObject(1000)
	require.NoError(t, err)
	server := httptest.NewServer(handler)
	defer server.Close()
	sum[0]++
	for _, impl := range implementations {
		_, err := work(job{impl.name, server.URL, 1000, sum})
		assert.EqualError(t, err, "the 1000 bytes that have arrived are not those of the object")
	}
	_, err = work(job{Implementation: "tape"})
	assert.EqualError(t, err, `no implementation is called "tape"`)
}

func TestProgram(t *testing.T) {
	cmd, stdout, stderr := commandtest.Program(t, "-size", "10MiB", "-runs", "2")
	require.NoError(t, cmd.Run(), stderr)
	assert.Empty(t, stderr.String())
	assert.Contains(t, stdout.String(), "work: an object of 10 MiB; runs of each, in turn: 2\n")
	for _, impl := range implementations {
		row := regexp.MustCompile(`(?m)^.*\| +` + regexp.QuoteMeta(impl.name) + ` \|.*$`).FindString(stdout.String())
		assert.Equal(t, 9, strings.Count(row, "|"), "%s in\n%s", impl.name, stdout)
	}
	assert.Regexp(t, `HTTP, 2 connections dropped: 3 requests, .*, contents verified\n\z`, stdout.String())
}

func TestMistakes(t *testing.T) {
	commandtest.RequireHelp(t, "download")
	for args, says := range map[string]string{
		"-size 0":    "at least one byte",
		"-runs 0":    "at least one run",
		"-colour":    "-colour",
		"s3://there": "no arguments are taken",
	} {
		commandtest.RequireFails(t, 2, says, "download", strings.Fields(args)...)
	}
}
