// SPDX-License-Identifier: Apache-2.0

//go:build linux && !dsv4mx_cgo

package raw

import "github.com/ebitengine/purego"

func callbackFunctions() Functions {
	return Functions{
		Progress: purego.NewCallback(onProgress),
		Log: purego.NewCallback(func(user uintptr, level LogLevel, text uintptr) uintptr {
			onLog(user, level, text)
			return 0
		}),
		Alloc: purego.NewCallback(onAlloc),
		Free: purego.NewCallback(func(user, pointer, bytes uintptr, memory Memory, stream Stream) uintptr {
			onFree(user, pointer, bytes, memory, stream)
			return 0
		}),
		AllGather: purego.NewCallback(onAllGather),
	}
}
