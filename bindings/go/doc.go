// SPDX-License-Identifier: Apache-2.0

// Package dsv4mx runs the routed-expert (MoE) layer of DeepSeek-V4 and its MXFP4 relatives: FP4 weights, bf16 activations,
// on NVIDIA Hopper and on the CPU. It is a thin layer over the C library, whose header dsv4mx.h is the manual of every
// number and option; package raw is the C API itself.
//
// # The library
//
// No C compiler is needed: the shared library is loaded when it is first used. It is the file that DSV4MX_LIBRARY names,
// else libdsv4mx.so.0 beside the executable, else what the system's loader finds. A *LoadError tells all that was tried.
// Importing the package needs neither the library nor a GPU.
//
// Calls go through purego, with or without cgo. With the build tag dsv4mx_cgo they go through a cgo shim, which the
// sanitizers see through. Linux on amd64 is what the library is built for.
//
// # Objects
//
// Context, Layer, Weights, Checkpoint, Comm, Buffer, Workspace and Call are made by New functions and given back by Close,
// in any order, any number of times, also beside calls that run: what is used stays until the last user is done. After
// Close every method answers ErrInvalidState. Forgotten objects are closed by the collector, which is a net and no plan.
//
// All of them are safe for many goroutines. What the header calls "one call at a time" waits here.
//
// # Errors
//
// Errors are *Error with status, operation and text; compare them by status:
//
//	if errors.Is(err, dsv4mx.ErrWorkspaceTooSmall) { ... }
//
// # Long calls
//
// Opening, setting, loading, preparing, copying, saving and joining a group take a context.Context, which cancels them, and
// report progress. Apply takes none: it only enqueues, and what a GPU has been given cannot be taken back. In a group
// CommDesc.Timeout bounds its waits, and Comm.Abort ends it.
//
// # Memory
//
// A Tensor names memory with its element type and shape: slices of Go for the CPU, Buffers and foreign device memory by its
// address for a GPU. Slices are pinned over the call (over the life of a Call). No raw pointer is met unless one is asked for.
package dsv4mx
