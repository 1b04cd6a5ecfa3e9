// SPDX-License-Identifier: Apache-2.0

//go:build linux && dsv4mx_cgo && !cgo

package raw

// The tag asks for cgo, and cgo is off: this line makes the compiler say so.
var _ = build_tag_dsv4mx_cgo_needs_CGO_ENABLED_1_and_a_C_compiler
