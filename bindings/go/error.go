// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"fmt"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Status is the result of a call. Every status but StatusOK is an error, to compare with:
//
//	if errors.Is(err, dsv4mx.ErrWorkspaceTooSmall) { ... }
type Status = raw.Status

// Error is a failed call.
type Error struct {
	// Status is the cause, for programs.
	Status Status
	// Op is the function of the C API without its prefix, e.g. "layer_apply".
	Op string
	// Msg is one line for people: what, got, wanted. Its wording changes.
	Msg string
	// Cause is the error of the caller's own function that made the call fail; nil if there is none.
	Cause error
}

// Error gives operation, status and text in one line.
func (e *Error) Error() string {
	text := fmt.Sprintf("dsv4mx: %s: %s: %s", e.Op, e.Status.String(), e.Msg)
	if e.Cause != nil {
		text += ": " + e.Cause.Error()
	}
	return text
}

// Is compares by status. CANCELLED is also context.Canceled, DEADLINE_EXCEEDED also context.DeadlineExceeded.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Status == ErrCancelled
	case context.DeadlineExceeded:
		return e.Status == ErrDeadlineExceeded
	}
	status, ok := target.(Status)
	return ok && status == e.Status
}

// Unwrap gives the cause, or where there is none the status, itself an error.
func (e *Error) Unwrap() error {
	if e.Cause != nil {
		return e.Cause
	}
	return e.Status
}

// LoadError says why the library could not be loaded: every path that was tried, and for each whether the file is
// missing, a dependency is missing, the architecture or the ABI version is wrong. All functions that need the library
// return it.
type LoadError = raw.LoadError

// fail turns a status and its text into an error.
func fail(op string, status Status, text string) error {
	if status == StatusOK {
		return nil
	}
	return &Error{Status: status, Op: op, Msg: text}
}

// refuse is an error that this package finds before the library is asked.
func refuse(op string, status Status, format string, args ...any) error {
	return &Error{Status: status, Op: op, Msg: fmt.Sprintf(format, args...)}
}
