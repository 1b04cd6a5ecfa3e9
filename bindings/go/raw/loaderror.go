// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"fmt"
	"strings"
)

// Reason is what was wrong with one file.
type Reason int

// Reasons.
const (
	// Loadable: nothing.
	Loadable Reason = iota
	// MissingFile: there is no such file, or the loader found none of that name.
	MissingFile
	// MissingDependency: the file is there, something that it needs is not.
	MissingDependency
	// WrongArchitecture: a library for another processor.
	WrongArchitecture
	// WrongVersion: its major and minor version are not those of this package's header.
	WrongVersion
	// NotDsv4mx: no shared library, or one without dsv4mx's functions.
	NotDsv4mx
	// Unreadable: it may not be read.
	Unreadable
	// Refused: the loader refused it for another reason.
	Refused
)

// String names the reason.
func (r Reason) String() string {
	names := [...]string{"loadable", "missing file", "missing dependency", "wrong architecture", "wrong ABI version",
		"not a dsv4mx library", "unreadable", "refused by the loader"}
	if r < 0 || int(r) >= len(names) {
		return unknown("Reason", int32(r))
	}
	return names[r]
}

// Attempt is one file that was tried.
type Attempt struct {
	// Path of the file, or the bare name that was asked for.
	Path string
	// Origin says why this path: the environment variable's name, "beside the executable", ...
	Origin string
	// Reason is what was wrong.
	Reason Reason
	// Text says it in words.
	Text string
}

// LoadError says that the library could not be loaded, and all that was tried.
type LoadError struct {
	// Attempts in the order they were made.
	Attempts []Attempt
}

// Error lists every path with its reason.
func (e *LoadError) Error() string {
	var b strings.Builder
	b.WriteString("dsv4mx: cannot load the library: tried ")
	for i, a := range e.Attempts {
		if i > 0 {
			b.WriteString("; then ")
		}
		fmt.Fprintf(&b, "%s (%s): %s", a.Path, a.Origin, a.Reason)
		if a.Text != "" {
			fmt.Fprintf(&b, ", %s", a.Text)
		}
	}
	if last := len(e.Attempts) - 1; last < 0 || e.Attempts[last].Origin != Variable {
		b.WriteString("; " + Variable + " may name the file")
	}
	return b.String()
}

// Reason is that of the first file that was there; MissingFile if none was.
func (e *LoadError) Reason() Reason {
	for _, a := range e.Attempts {
		if a.Reason != MissingFile {
			return a.Reason
		}
	}
	return MissingFile
}
