// SPDX-License-Identifier: Apache-2.0

//go:build linux && dsv4mx_cgo

package raw

/*
#include <stdint.h>

extern int32_t dsv4mxGoProgress(uintptr_t user, int32_t stage, int64_t done, int64_t total);
extern void dsv4mxGoLog(uintptr_t user, int32_t level, uintptr_t text);
extern uintptr_t dsv4mxGoAlloc(uintptr_t user, uintptr_t bytes, uintptr_t alignment, int32_t memory, uintptr_t stream);
extern void dsv4mxGoFree(uintptr_t user, uintptr_t pointer, uintptr_t bytes, int32_t memory, uintptr_t stream);
extern int32_t dsv4mxGoAllGather(uintptr_t user, uintptr_t mine, uintptr_t all, uintptr_t bytes);
*/
import "C"

import "unsafe"

func callbackFunctions() Functions {
	return Functions{
		Progress:  uintptr(unsafe.Pointer(C.dsv4mxGoProgress)),
		Log:       uintptr(unsafe.Pointer(C.dsv4mxGoLog)),
		Alloc:     uintptr(unsafe.Pointer(C.dsv4mxGoAlloc)),
		Free:      uintptr(unsafe.Pointer(C.dsv4mxGoFree)),
		AllGather: uintptr(unsafe.Pointer(C.dsv4mxGoAllGather)),
	}
}

//export dsv4mxGoProgress
func dsv4mxGoProgress(user C.uintptr_t, stage C.int32_t, done, total C.int64_t) C.int32_t {
	return C.int32_t(onProgress(uintptr(user), Stage(stage), int64(done), int64(total)))
}

//export dsv4mxGoLog
func dsv4mxGoLog(user C.uintptr_t, level C.int32_t, text C.uintptr_t) {
	onLog(uintptr(user), LogLevel(level), uintptr(text))
}

//export dsv4mxGoAlloc
func dsv4mxGoAlloc(user, bytes, alignment C.uintptr_t, memory C.int32_t, stream C.uintptr_t) C.uintptr_t {
	return C.uintptr_t(onAlloc(uintptr(user), uintptr(bytes), uintptr(alignment), Memory(memory), Stream(stream)))
}

//export dsv4mxGoFree
func dsv4mxGoFree(user, pointer, bytes C.uintptr_t, memory C.int32_t, stream C.uintptr_t) {
	onFree(uintptr(user), uintptr(pointer), uintptr(bytes), Memory(memory), Stream(stream))
}

//export dsv4mxGoAllGather
func dsv4mxGoAllGather(user, mine, all, bytes C.uintptr_t) C.int32_t {
	return C.int32_t(onAllGather(uintptr(user), uintptr(mine), uintptr(all), uintptr(bytes)))
}
