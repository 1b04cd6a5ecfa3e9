// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"os"
	"path/filepath"
	"strings"
)

// Soname is the library's name for the system's loader.
const Soname = "libdsv4mx.so.0"

// Variable is the environment variable that names the library's file.
const Variable = "DSV4MX_LIBRARY"

// candidate is a place to look at, and why.
type candidate struct{ path, origin string }

// candidates are the places in their order. A file that is named is the only one: another would be a surprise.
func candidates() []candidate {
	if path := os.Getenv(Variable); path != "" {
		// A bare name is the loader's to find.
		if absolute, err := filepath.Abs(path); err == nil && strings.Contains(path, "/") {
			path = absolute
		}
		return []candidate{{path, Variable}}
	}
	list := []candidate{}
	if executable, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(executable); err == nil {
			executable = real
		}
		list = append(list, candidate{filepath.Join(filepath.Dir(executable), Soname), "beside the executable"})
	}
	return append(list, candidate{Soname, "the system's loader"})
}

// Find loads the library: the file that DSV4MX_LIBRARY names, else libdsv4mx.so.0 beside the executable, else by its
// bare name as the system's loader finds it. A file that cannot be used is passed over, as in the other bindings. A failure
// is a *LoadError, which lists every path that was tried.
func Find() (*Library, error) {
	failure := &LoadError{}
	for _, c := range candidates() {
		library, attempt := try(c)
		if attempt == nil {
			return library, nil
		}
		failure.Attempts = append(failure.Attempts, *attempt)
	}
	return nil, failure
}
