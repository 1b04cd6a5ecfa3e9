// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Buffer is memory of the context's device; on the CPU it is host memory that Go does not manage. Use by several
// goroutines follows the streams: the caller orders who writes when.
type Buffer struct {
	owner
	context *object
	start   uintptr
	bytes   int
}

// NewBuffer allocates memory through the context: 256-byte aligned, not initialised.
func NewBuffer(context *Context, bytes int) (*Buffer, error) {
	const op = "context_alloc"
	if err := context.acquire(op); err != nil {
		return nil, err
	}
	defer context.release()
	return newBuffer(context.object, bytes)
}

// newBuffer is NewBuffer on a context that the caller holds.
func newBuffer(context *object, bytes int) (*Buffer, error) {
	const op = "context_alloc"
	if bytes < 0 {
		return nil, refuse(op, ErrInvalidArgument, "bytes is %d, expected 0 or more", bytes)
	}
	lib, parent := context.lib, raw.Context(context.address)
	out := new(uintptr)
	status, text := lib.ContextAlloc(parent, uintptr(bytes), out)
	if status != StatusOK {
		context.finish()
		return nil, fail(op, status, text)
	}
	start := *out
	o := newObject(lib, "buffer", start, func() { lib.ContextFree(parent, start) }, context)
	b := netted(&Buffer{owner{o}, context, start, bytes}, o)
	o.finish()
	return b, nil
}

// BufferAt is device memory of the caller's, which outlives the Buffer; Close leaves it alone.
func BufferAt(context *Context, address uintptr, bytes int) (*Buffer, error) {
	const op = "buffer"
	if bytes < 0 || address == 0 && bytes > 0 {
		return nil, refuse(op, ErrInvalidArgument, "%d bytes at address %#x", bytes, address)
	}
	if err := context.acquire(op); err != nil {
		return nil, err
	}
	defer context.release()
	o := newObject(context.lib, "buffer", address, func() {}, context.object)
	return netted(&Buffer{owner{o}, context.object, address, bytes}, o), nil
}

// Upload allocates a Buffer and copies a slice into it, in the order of the stream.
func Upload[T Element](context *Context, from []T, stream Stream) (*Buffer, error) {
	b, err := NewBuffer(context, len(from)*int(unsafe.Sizeof(*new(T))))
	if err != nil {
		return nil, err
	}
	if err := CopyIn(b, from, stream); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// CopyIn copies a slice to the begin of a Buffer, in the order of the stream, and has read the slice when it returns.
func CopyIn[T Element](to *Buffer, from []T, stream Stream) error {
	return to.move(unsafe.Pointer(unsafe.SliceData(from)), len(from)*int(unsafe.Sizeof(*new(T))), stream, true)
}

// CopyOut fills a slice from the begin of a Buffer, in the order of the stream, and has waited for it when it returns.
func CopyOut[T Element](from *Buffer, to []T, stream Stream) error {
	return from.move(unsafe.Pointer(unsafe.SliceData(to)), len(to)*int(unsafe.Sizeof(*new(T))), stream, false)
}

// Download is the begin of a Buffer as a new slice, in the order of the stream; it waits.
func Download[T Element](from *Buffer, count int, stream Stream) ([]T, error) {
	if count < 0 || count > from.bytes/int(unsafe.Sizeof(*new(T))) {
		return nil, refuse("context_copy", ErrInvalidArgument, "%d elements of %d bytes from a buffer of %d bytes", count,
			unsafe.Sizeof(*new(T)), from.bytes)
	}
	to := make([]T, count)
	return to, CopyOut(from, to, stream)
}

// move copies and then waits: memory of Go is not to be touched by a device after the call.
func (b *Buffer) move(host unsafe.Pointer, bytes int, stream Stream, in bool) error {
	const op = "context_copy"
	if bytes > b.bytes {
		return refuse(op, ErrInvalidArgument, "%d bytes between a slice and a buffer of %d bytes", bytes, b.bytes)
	}
	if bytes == 0 {
		return nil
	}
	if err := b.acquire(op); err != nil {
		return err
	}
	defer b.release()
	c := converter{op: op}
	defer c.done()
	c.pin(host)
	to, from := b.start, uintptr(host)
	if !in {
		to, from = from, to
	}
	lib, context := b.lib, raw.Context(b.context.address)
	if status, text := lib.ContextCopy(context, to, from, uintptr(bytes), stream); status != StatusOK {
		return fail(op, status, text)
	}
	status, text := lib.ContextSynchronize(context, stream)
	return fail("context_synchronize", status, text)
}

// Bytes is the size.
func (b *Buffer) Bytes() int { return b.bytes }

// Address is where it lies on the device, for other libraries; valid until Close.
func (b *Buffer) Address() uintptr { return b.start }

// Tensor is the begin of the buffer as a tensor.
func (b *Buffer) Tensor(dtype Dtype, shape ...int) Tensor {
	t := made(dtype, shape)
	t.address, t.memory, t.bytes, t.holder, t.keep = b.start, MemoryDevice, b.bytes, b.object, b
	return t
}
