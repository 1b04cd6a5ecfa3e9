// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"sync"
	"sync/atomic"
)

// Hooks are functions of Go that C calls. Callbacks of C are never freed, so there is one C function of each kind for the
// whole process; it finds its Hooks by the user pointer that Register gives. A hook that is nil does nothing.
//
// Each is called on the goroutine that made the dsv4mx call. A panic does not run through C: it is caught, the call is
// cancelled where it can be, and Panicked gives it to whoever made the call.
//
// A hook should not call runtime.Goexit, nor what calls it, like FailNow and Fatal of a test: Go ends the goroutine and
// forgets the frames of C below it without unwinding them. Objects stay usable, but what that call of C held is lost.
type Hooks struct {
	// Progress of a long call; false cancels it.
	Progress func(stage Stage, done, total int64) bool
	// Log receives one line of text.
	Log func(level LogLevel, text string)
	// Alloc gives an address, 0 on failure.
	Alloc func(bytes, alignment uintptr, memory Memory, stream Stream) uintptr
	// Free takes back what Alloc gave.
	Free func(pointer, bytes uintptr, memory Memory, stream Stream)
	// AllGather reads `bytes` bytes at mine and writes those of every rank, in rank order, at all; false fails the call.
	AllGather func(mine, all, bytes uintptr) bool

	panicked atomic.Pointer[any]
}

// Functions are the addresses of the C functions that call Hooks.
type Functions struct {
	// Progress is a dsv4mx_progress_fn, Log a dsv4mx_log_fn, and so on.
	Progress, Log, Alloc, Free, AllGather uintptr
}

// CallbackFunctions gives the C functions; they are made once.
var CallbackFunctions = sync.OnceValue(callbackFunctions)

var (
	registry sync.Map // user pointer -> *Hooks
	lastUser atomic.Uintptr
)

// Register gives the user pointer under which C finds the hooks: a number, no address.
func Register(h *Hooks) uintptr {
	user := lastUser.Add(1)
	registry.Store(user, h)
	return user
}

// Unregister forgets hooks. What C calls under their user pointer afterwards does nothing.
func Unregister(user uintptr) { registry.Delete(user) }

// Registered is the number of hooks that C may find.
func Registered() int {
	n := 0
	registry.Range(func(any, any) bool { n++; return true })
	return n
}

// Panicked takes what a hook panicked with since it was last asked; nil if none did.
func (h *Hooks) Panicked() any {
	if h.panicked.Load() == nil {
		return nil
	}
	if value := h.panicked.Swap(nil); value != nil {
		return *value
	}
	return nil
}

// with runs a hook and keeps its panic.
func with(user uintptr, run func(h *Hooks)) {
	found, ok := registry.Load(user)
	if !ok {
		return
	}
	h := found.(*Hooks)
	defer func() {
		if value := recover(); value != nil {
			h.panicked.CompareAndSwap(nil, &value)
		}
	}()
	run(h)
}

func onProgress(user uintptr, stage Stage, done, total int64) int32 {
	result := int32(1) // a panic cancels
	if _, ok := registry.Load(user); !ok {
		return 0
	}
	with(user, func(h *Hooks) {
		if h.Progress == nil || h.Progress(stage, done, total) {
			result = 0
		}
	})
	return result
}

func onLog(user uintptr, level LogLevel, text uintptr) {
	with(user, func(h *Hooks) {
		if h.Log != nil {
			h.Log(level, goString(text))
		}
	})
}

func onAlloc(user, bytes, alignment uintptr, memory Memory, stream Stream) (address uintptr) {
	with(user, func(h *Hooks) {
		if h.Alloc != nil {
			address = h.Alloc(bytes, alignment, memory, stream)
		}
	})
	return address
}

func onFree(user, pointer, bytes uintptr, memory Memory, stream Stream) {
	with(user, func(h *Hooks) {
		if h.Free != nil {
			h.Free(pointer, bytes, memory, stream)
		}
	})
}

func onAllGather(user, mine, all, bytes uintptr) int32 {
	result := int32(1) // a panic fails the call
	with(user, func(h *Hooks) {
		if h.AllGather != nil && h.AllGather(mine, all, bytes) {
			result = 0
		}
	})
	return result
}
