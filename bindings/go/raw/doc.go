// SPDX-License-Identifier: Apache-2.0

// Package raw is the C API of dsv4mx as Go sees it: structs, constants and functions made from dsv4mx.h, nothing checked,
// nothing kept alive. The package above it, dsv4mx, is the one to use; this one is for what that one lacks.
//
// Pointers in structs are addresses (uintptr), of host or device memory as the header says. Memory of Go that a struct
// names is kept in place over the call by the caller, with a runtime.Pinner. Pointers among a function's arguments are
// kept by the call itself.
//
// Functions that can fail give a status and, if it is not OK, the error text, read on the thread that failed.
//
// Calls go through purego, without cgo; with the build tag dsv4mx_cgo through a cgo shim, which the race detector and
// the sanitizers see through. Both load the library at run time.
package raw
