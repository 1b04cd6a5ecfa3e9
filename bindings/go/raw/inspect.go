// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
)

// machines are the processors that Go and ELF name differently.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

// inspect looks at a file before the loader does, whose text tells less. A bare name is the loader's affair.
func inspect(path string) (Reason, string) {
	if !strings.Contains(path, "/") {
		return Loadable, ""
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return MissingFile, ""
	case err != nil:
		return Unreadable, plain(err)
	case info.IsDir():
		return NotDsv4mx, "it is a folder, wanted the file " + Soname
	case info.Size() == 0:
		return NotDsv4mx, "the file is empty"
	}
	file, err := elf.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return Unreadable, plain(err)
	}
	if err != nil {
		return NotDsv4mx, "it is no ELF file"
	}
	defer file.Close()
	want, known := machines[runtime.GOARCH]
	if known && file.Machine != want {
		return WrongArchitecture, fmt.Sprintf("found %s, wanted %s", file.Machine, want)
	}
	if file.Type != elf.ET_DYN {
		return NotDsv4mx, fmt.Sprintf("it is no shared library (%s)", file.Type)
	}
	return Loadable, ""
}

// plain is an error's text without the path, which the attempt names already.
func plain(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// explain sorts what the loader said about a file that looked right (glibc's and musl's words).
func explain(path, text string) (Reason, string) {
	const glibc = ": cannot open shared object file"
	name, _, found := strings.Cut(text, glibc)
	switch {
	case found && name == path:
		return MissingFile, ""
	case found:
		return MissingDependency, "it needs " + name + ", which was not found"
	case strings.Contains(text, "Error loading shared library"):
		if !strings.Contains(text, "needed by") {
			return MissingFile, ""
		}
		return MissingDependency, text
	case strings.Contains(text, "version `") && strings.Contains(text, "not found"):
		return MissingDependency, strings.TrimPrefix(text, path+": ")
	case strings.Contains(text, "wrong ELF class"):
		return WrongArchitecture, strings.TrimPrefix(text, path+": ")
	}
	return Refused, strings.TrimPrefix(text, path+": ")
}

// wrongVersion says what is wrong with the version 0x00MMmmpp of a library; "" if nothing is.
func wrongVersion(version uint32) string {
	major, minor := version>>16, version>>8&0xff
	if major == VersionMajor && minor == VersionMinor {
		return ""
	}
	return fmt.Sprintf("found %d.%d, wanted %d.%d", major, minor, VersionMajor, VersionMinor)
}

// mappedFile is the file whose mapping holds an address: what the loader found for a bare name.
func mappedFile(address uintptr, otherwise string) string {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return otherwise
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var first, last uintptr
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x", &first, &last); n != 2 || address < first || address >= last {
			continue
		}
		if slash := strings.IndexByte(lines.Text(), '/'); slash >= 0 {
			return lines.Text()[slash:]
		}
	}
	return otherwise
}
