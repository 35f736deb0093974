//go:build !mmapbuf_copyviews

package mapping

// CopiesViews reports whether the program was built with the tag mmapbuf_copyviews:
// then no pages are moved to the Go heap, and views are copies.
const CopiesViews = false
