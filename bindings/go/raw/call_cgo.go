// SPDX-License-Identifier: Apache-2.0

//go:build linux && dsv4mx_cgo

package raw

/*
#cgo LDFLAGS: -ldl
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// All parameters of the header's functions are integers and pointers, at most six: they travel in registers alike.
typedef uintptr_t (*dsv4mx_go_function)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);
typedef const char* (*dsv4mx_go_text)(void);

typedef struct {
  int32_t status;
  char* text;  // of a failed call, the caller's; NULL if there was no memory
} dsv4mx_go_result;

static inline uintptr_t dsv4mx_go_call(uintptr_t function, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d,
                                       uintptr_t e, uintptr_t f) {
  return ((dsv4mx_go_function)function)(a, b, c, d, e, f);
}

static inline dsv4mx_go_result dsv4mx_go_status(uintptr_t function, uintptr_t last_error, uintptr_t a, uintptr_t b,
                                                uintptr_t c, uintptr_t d, uintptr_t e, uintptr_t f) {
  dsv4mx_go_result result = {(int32_t)((dsv4mx_go_function)function)(a, b, c, d, e, f), NULL};
  // The text belongs to this thread: it is copied before Go can move to another one.
  if (result.status != 0) result.text = strdup(((dsv4mx_go_text)last_error)());
  return result;
}

static inline void* dsv4mx_go_open(const char* path, char** error) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  *error = handle == NULL ? strdup(dlerror()) : NULL;
  return handle;
}
*/
import "C"

import "unsafe"

// Backend says how this program calls the library: "purego" or "cgo".
const Backend = "cgo"

// dlopen gives the handle, or 0 and what the loader says.
func dlopen(path string) (uintptr, string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var text *C.char
	handle := C.dsv4mx_go_open(name, &text)
	defer C.free(unsafe.Pointer(text))
	return uintptr(handle), C.GoString(text)
}

func dlsym(handle uintptr, name string) uintptr {
	symbol := C.CString(name)
	defer C.free(unsafe.Pointer(symbol))
	return uintptr(C.dlsym(*(*unsafe.Pointer)(unsafe.Pointer(&handle)), symbol))
}

// call is a call that cannot fail.
//
//go:uintptrescapes
func (l *Library) call(function, a, b, c, d, e, f uintptr) uintptr {
	return uintptr(C.dsv4mx_go_call(C.uintptr_t(function), C.uintptr_t(a), C.uintptr_t(b), C.uintptr_t(c),
		C.uintptr_t(d), C.uintptr_t(e), C.uintptr_t(f)))
}

// status is a call that can fail; C copies the error text before the goroutine can move to another thread.
//
//go:uintptrescapes
func (l *Library) status(function, a, b, c, d, e, f uintptr) (Status, string) {
	if function == 0 {
		return StatusUnsupported, missing
	}
	r := C.dsv4mx_go_status(C.uintptr_t(function), C.uintptr_t(l.functions[fnLastError]), C.uintptr_t(a), C.uintptr_t(b),
		C.uintptr_t(c), C.uintptr_t(d), C.uintptr_t(e), C.uintptr_t(f))
	if r.status == 0 {
		return StatusOK, ""
	}
	text := C.GoString(r.text)
	C.free(unsafe.Pointer(r.text))
	return Status(r.status), text
}

// BoundApply is LayerApply with its arguments laid out once. It is used by one goroutine at a time.
type BoundApply struct {
	library *Library
	layer   Layer
	weights Weights
	args    *ApplyArgs
}

// BindLayerApply lays the arguments of LayerApply out.
func (l *Library) BindLayerApply(layer Layer, weights Weights, args *ApplyArgs) *BoundApply {
	return &BoundApply{l, layer, weights, args}
}

// Apply is LayerApply.
func (b *BoundApply) Apply(stream Stream) (Status, string) {
	return b.library.LayerApply(b.layer, b.weights, b.args, stream)
}
