// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestErrors compares by status, unwraps, and keeps the library's text.
func TestErrors(t *testing.T) {
	x := cpu(t)
	desc := smallDesc()
	desc.Hidden = 100
	_, err := NewLayer(x, desc)
	var failure *Error
	if !errors.As(err, &failure) {
		t.Fatalf("%v is no *Error", err)
	}
	if failure.Op != "layer_create" || failure.Status != ErrUnsupportedShape || !strings.Contains(failure.Msg, "100") {
		t.Errorf("%+v", failure)
	}
	if !errors.Is(err, ErrUnsupportedShape) || errors.Is(err, ErrInvalidArgument) || errors.Is(err, StatusOK) {
		t.Error("errors.Is")
	}
	if !errors.Is(fmt.Errorf("outer: %w", err), ErrUnsupportedShape) || errors.Unwrap(err) != error(ErrUnsupportedShape) {
		t.Error("wrapped")
	}
	if want := "dsv4mx: layer_create: UNSUPPORTED_SHAPE: " + failure.Msg; err.Error() != want {
		t.Errorf("%q, wanted %q", err, want)
	}
	cancelled := error(&Error{Status: ErrCancelled})
	late := error(&Error{Status: ErrDeadlineExceeded})
	if !errors.Is(cancelled, context.Canceled) || errors.Is(cancelled, context.DeadlineExceeded) ||
		!errors.Is(late, context.DeadlineExceeded) || errors.Is(late, context.Canceled) {
		t.Error("context's errors")
	}
	desc = smallDesc()
	desc.Experts = 1<<32 + 4
	if _, err = NewLayer(x, desc); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), "4294967300") {
		t.Errorf("a number that C would cut: %v", err)
	}
	desc = smallDesc()
	desc.Placement = []int32{0, 1}
	if _, err = NewLayer(x, desc); !errors.Is(err, ErrInvalidArgument) || !strings.Contains(err.Error(), "2 entries") {
		t.Errorf("a short placement: %v", err)
	}
	if _, err = NewCheckpoint(context.Background(), "a\x00b", nil); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("a zero byte: %v", err)
	}
	if _, err = NewBuffer(x, -1); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("-1 bytes: %v", err)
	}
	if _, err = NewBuffer(x, 1<<60); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("2^60 bytes: %v", err)
	}
}

// TestErrorTexts has many goroutines fail, each with a text of its own.
func TestErrorTexts(t *testing.T) {
	x := cpu(t)
	const goroutines = 32
	end := time.Now().Add(2 * time.Second)
	var calls, foreign atomic.Int64
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for time.Now().Before(end) {
				desc := smallDesc()
				desc.Hidden = 100001 + 32*int(calls.Add(1))
				_, err := NewLayer(x, desc)
				if err == nil || !strings.Contains(err.Error(), fmt.Sprint(desc.Hidden)) {
					foreign.Add(1)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d failing calls from %d goroutines, %d foreign texts", calls.Load(), goroutines, foreign.Load())
	if n := foreign.Load(); n != 0 {
		t.Errorf("%d of %d texts came from another goroutine", n, calls.Load())
	}
}

// TestLoadTwice asks for another library when one is loaded.
func TestLoadTwice(t *testing.T) {
	needLibrary(t)
	path := must[string](t)(LibraryPath())
	check(t, Load(path))
	if err := Load("/nonexistent/libdsv4mx.so.0"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if text := must[string](t)(VersionString()); !strings.HasPrefix(text, "0.1.") {
		t.Errorf("%q", text)
	}
}
