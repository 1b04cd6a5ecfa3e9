// SPDX-License-Identifier: Apache-2.0

//go:build linux && !dsv4mx_cgo

package raw

import (
	"runtime"
	"sync"
	"unsafe"

	"github.com/ebitengine/purego"
)

// Backend says how this program calls the library: "purego" or "cgo".
const Backend = "purego"

// dlopen gives the handle, or 0 and what the loader says: a text of the thread, so it is read on the same one.
func dlopen(path string) (uintptr, string) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	handle, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return 0, err.Error()
	}
	return handle, ""
}

func dlsym(handle uintptr, name string) uintptr {
	address, err := purego.Dlsym(handle, name)
	if err != nil {
		return 0
	}
	return address
}

// frame holds the arguments of a call. SyscallN lets its slice of arguments escape: one that is on the heap already is not
// allocated again.
type frame [6]uintptr

var frames = sync.Pool{New: func() any { return new(frame) }}

// call is a call that cannot fail. SyscallN, not RegisterLibFunc, which takes three times as long.
//
//go:uintptrescapes
func (l *Library) call(function, a, b, c, d, e, f uintptr) uintptr {
	x := frames.Get().(*frame)
	*x = frame{a, b, c, d, e, f}
	r, _, _ := purego.SyscallN(function, x[:]...)
	frames.Put(x)
	return r
}

// status is a call that can fail.
//
//go:uintptrescapes
func (l *Library) status(function, a, b, c, d, e, f uintptr) (Status, string) {
	if function == 0 {
		return StatusUnsupported, missing
	}
	x := frames.Get().(*frame)
	*x = frame{a, b, c, d, e, f}
	status, text := l.framed(function, x)
	frames.Put(x)
	return status, text
}

// framed makes a call that can fail. Goroutines move between threads and the error text belongs to the thread, so call and
// text are got on one.
func (l *Library) framed(function uintptr, x *frame) (Status, string) {
	runtime.LockOSThread()
	r, _, _ := purego.SyscallN(function, x[:]...)
	if Status(int32(r)) == StatusOK {
		runtime.UnlockOSThread()
		return StatusOK, ""
	}
	text, _, _ := purego.SyscallN(l.functions[fnLastError])
	message := goString(text)
	runtime.UnlockOSThread()
	return Status(int32(r)), message
}

// BoundApply is LayerApply with its arguments laid out once. It is used by one goroutine at a time, and its struct stays
// where it is.
type BoundApply struct {
	library *Library
	frame   frame
	args    *ApplyArgs
}

// BindLayerApply lays the arguments of LayerApply out.
func (l *Library) BindLayerApply(layer Layer, weights Weights, args *ApplyArgs) *BoundApply {
	return &BoundApply{l, frame{uintptr(layer), uintptr(weights), uintptr(unsafe.Pointer(args))}, args}
}

// Apply is LayerApply.
func (b *BoundApply) Apply(stream Stream) (Status, string) {
	b.frame[3] = uintptr(stream)
	status, text := b.library.framed(b.library.functions[fnLayerApply], &b.frame)
	runtime.KeepAlive(b)
	return status, text
}
