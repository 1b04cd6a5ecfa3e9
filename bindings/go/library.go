// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

var (
	loaded    atomic.Pointer[raw.Library]
	loadMutex sync.Mutex
)

// Load loads the library now instead of at the first call that needs it. path "" looks for it: the file that
// DSV4MX_LIBRARY names, else libdsv4mx.so.0 beside the executable, else as the system's loader finds it. A program has one
// library; asking for another file after it was loaded is an error.
func Load(path string) error {
	loadMutex.Lock()
	defer loadMutex.Unlock()
	if have := loaded.Load(); have != nil {
		if path == "" || path == have.Path() {
			return nil
		}
		return fmt.Errorf("dsv4mx: cannot load %s: %s is loaded already", path, have.Path())
	}
	open := raw.Find
	if path != "" {
		open = func() (*raw.Library, error) { return raw.Open(path) }
	}
	library, err := open()
	if err != nil {
		return err
	}
	loaded.Store(library)
	return nil
}

// library gives the loaded library and loads it where needed. After a failure the next call tries again.
func library() (*raw.Library, error) {
	if have := loaded.Load(); have != nil {
		return have, nil
	}
	if err := Load(""); err != nil {
		return nil, err
	}
	return loaded.Load(), nil
}

// VersionString is the library's version, build and GPU architectures in one line.
func VersionString() (string, error) {
	lib, err := library()
	if err != nil {
		return "", err
	}
	return lib.VersionString(), nil
}

// LibraryPath is the file of the loaded library.
func LibraryPath() (string, error) {
	lib, err := library()
	if err != nil {
		return "", err
	}
	return lib.Path(), nil
}
