package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReport(t *testing.T) {
	server := httptest.NewServer(http.DefaultServeMux)
	defer server.Close()
	var out bytes.Buffer
	require.NoError(t, report(&out, server.URL))
	if runtime.GOOS == "linux" {
		assert.Regexp(t, `Mappings:[1-9]`, out.String())
		assert.Regexp(t, `MappedBytes:[1-9][0-9]{8}`, out.String())
		assert.Contains(t, out.String(), ".report+", "the stack of the code that fills it")
	}
}
