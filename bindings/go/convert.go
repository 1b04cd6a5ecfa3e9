// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"bytes"
	"context"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// converter makes C structs of Go values. Memory of Go that they name stays where it is until done; the first thing that
// cannot be converted is kept as the error.
type converter struct {
	op      string
	pinner  runtime.Pinner
	err     error
	cleanup []func()
}

func (c *converter) pin(pointer any) { c.pinner.Pin(pointer) }

func (c *converter) done() {
	c.pinner.Unpin()
	for _, f := range c.cleanup {
		f()
	}
}

func (c *converter) refuse(status Status, format string, args ...any) {
	if c.err == nil {
		c.err = refuse(c.op, status, format, args...)
	}
}

// number checks that a number fits into `bytes` bytes of C: a cut one could look legal.
func (c *converter) number(name string, value int, bytes int) int {
	if bytes == 4 && int(int32(value)) != value {
		c.refuse(ErrInvalidArgument, "%s is %d, expected a number of 32 bits", name, value)
	}
	return value
}

// text gives a C string; "" is NULL.
func (c *converter) text(name, value string) uintptr {
	if value == "" {
		return 0
	}
	pointer := c.string(name, value)
	c.pin(pointer)
	return uintptr(unsafe.Pointer(pointer))
}

// string gives a C string as an argument of a call.
func (c *converter) string(name, value string) *byte {
	if strings.IndexByte(value, 0) >= 0 {
		c.refuse(ErrInvalidArgument, "%s is %q, which has a zero byte in it", name, value)
	}
	return &append([]byte(value), 0)[0]
}

// control gives a dsv4mx_control for a context.Context and a progress function; 0 where neither asks for one.
func (c *converter) control(ctx context.Context, progress func(stage Stage, done, total int64) bool) uintptr {
	if ctx == nil {
		ctx = context.Background()
	}
	deadline, timed := ctx.Deadline()
	if ctx.Done() == nil && progress == nil {
		return 0
	}
	control := raw.NewControl()
	switch err := ctx.Err(); {
	case err == context.DeadlineExceeded:
		c.refuse(ErrDeadlineExceeded, "the deadline had passed before the call")
	case err != nil:
		c.refuse(ErrCancelled, "the context was cancelled before the call")
	case timed:
		control.TimeoutNs = max(1, int64(time.Until(deadline)))
	}
	if ctx.Done() != nil {
		cancel := new(int32)
		c.pin(cancel)
		control.Cancel = uintptr(unsafe.Pointer(cancel))
		// A deadline is the library's own affair, so that it says DEADLINE_EXCEEDED.
		stop := context.AfterFunc(ctx, func() {
			if ctx.Err() == context.Canceled {
				atomic.StoreInt32(cancel, 1)
			}
		})
		c.cleanup = append(c.cleanup, func() { stop() })
	}
	if progress != nil {
		// A context that the function itself cancels ends the call here; the function above may run late.
		hooks := &raw.Hooks{Progress: func(stage Stage, done, total int64) bool {
			return progress(stage, done, total) && ctx.Err() != context.Canceled
		}}
		user := raw.Register(hooks)
		control.Progress, control.ProgressUser = raw.CallbackFunctions().Progress, user
		c.cleanup = append(c.cleanup, func() {
			raw.Unregister(user)
			if value := hooks.Panicked(); value != nil {
				panic(value)
			}
		})
	}
	c.pin(&control)
	return uintptr(unsafe.Pointer(&control))
}

// text is a fixed array of C with a terminated string.
func text(array []byte) string {
	if end := bytes.IndexByte(array, 0); end >= 0 {
		array = array[:end]
	}
	return string(array)
}
