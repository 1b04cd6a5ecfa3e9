// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"runtime"
	"unsafe"
)

// Library is the shared library, loaded. It stays loaded until the process ends. Safe for many goroutines.
type Library struct {
	functions [len(symbols)]uintptr
	path      string
}

// symbol is a function of the library; an optional one may be missing.
type symbol struct {
	name     string
	optional bool
}

// Path is the file that was loaded, or the bare soname where the file is not known.
func (l *Library) Path() string { return l.path }

// Open loads the library from one file, or by a bare name as the system's loader finds it. A failure is a *LoadError.
func Open(path string) (*Library, error) {
	return open(candidate{path: path, origin: "given"})
}

func open(c candidate) (*Library, error) {
	library, attempt := try(c)
	if attempt != nil {
		return nil, &LoadError{Attempts: []Attempt{*attempt}}
	}
	return library, nil
}

// try loads one candidate; what is wrong with it comes as an attempt.
func try(c candidate) (*Library, *Attempt) {
	failed := func(reason Reason, text string) (*Library, *Attempt) {
		return nil, &Attempt{Path: c.path, Origin: c.origin, Reason: reason, Text: text}
	}
	if reason, text := inspect(c.path); reason != Loadable {
		return failed(reason, text)
	}
	handle, text := dlopen(c.path)
	if handle == 0 {
		reason, text := explain(c.path, text)
		return failed(reason, text)
	}
	l := &Library{path: c.path}
	for i, s := range symbols {
		l.functions[i] = dlsym(handle, s.name)
		// Before anything is missed: a library of another version may lack functions.
		if i == fnVersion && l.functions[i] != 0 {
			if text := wrongVersion(l.Version()); text != "" {
				return failed(WrongVersion, text)
			}
		}
		if l.functions[i] == 0 && !s.optional {
			return failed(NotDsv4mx, "it has no function "+s.name)
		}
	}
	l.path = mappedFile(l.functions[fnVersion], c.path)
	return l, nil
}

// text reads the C string that a function returns; NULL is "".
//
//go:uintptrescapes
func (l *Library) text(function, a, b, c, d, e, f uintptr) string {
	// The thread's own text (dsv4mx_last_error) stays what it is until another call fails on it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return goString(l.call(function, a, b, c, d, e, f))
}

// Text copies the C string at an address that a call gave; "" for 0. What the address belongs to must be alive.
func Text(address uintptr) string { return goString(address) }

// goString copies the C string at an address of C's.
func goString(address uintptr) string {
	if address == 0 {
		return ""
	}
	// An address that C gave, held in a variable of its own: not an arithmetic on Go pointers.
	start := *(*unsafe.Pointer)(unsafe.Pointer(&address))
	length := 0
	for *(*byte)(unsafe.Add(start, length)) != 0 {
		length++
	}
	return string(unsafe.Slice((*byte)(start), length))
}

// missing is the answer of an optional function that this library lacks.
const missing = "this library does not have the function"
