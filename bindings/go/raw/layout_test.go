// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// layout is how a compiler lays a struct out: size, alignment, and offset and size of every field.
type layout struct {
	Size   uintptr               `json:"size"`
	Align  uintptr               `json:"align"`
	Fields map[string][2]uintptr `json:"fields"`
}

// TestLayout compares every struct, field and constant with what the C compiler makes of the header.
func TestLayout(t *testing.T) {
	include := headerFolder(t)
	program := filepath.Join(t.TempDir(), "layout")
	compile(t, "-I"+include, "-o", program, "../../../tests/bindings/layout.c")
	out, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Version int
		Structs map[string]layout
		Values  map[string]int64
	}
	if err := json.Unmarshal(out, &c); err != nil {
		t.Fatal(err)
	}
	if want := VersionMajor<<16 | VersionMinor<<8 | VersionPatch; c.Version != want {
		t.Errorf("version %#x, C has %#x", want, c.Version)
	}
	if len(c.Structs) == 0 || len(c.Structs) != len(goStructs) || len(c.Values) == 0 || len(c.Values) != len(goValues) {
		t.Errorf("%d structs and %d values, C has %d and %d", len(goStructs), len(goValues), len(c.Structs), len(c.Values))
	}
	for name, want := range c.Structs {
		have := goStructs[name]
		if have.Size != want.Size || have.Align != want.Align || len(have.Fields) != len(want.Fields) {
			t.Errorf("%s: size %d align %d fields %d, C has %d %d %d", name, have.Size, have.Align, len(have.Fields), want.Size,
				want.Align, len(want.Fields))
		}
		for field, place := range want.Fields {
			if have.Fields[field] != place {
				t.Errorf("%s.%s: offset and size %v, C has %v", name, field, have.Fields[field], place)
			}
		}
	}
	for name, want := range c.Values {
		if have, ok := goValues[name]; !ok || have != want {
			t.Errorf("%s is %d, C has %d", name, have, want)
		}
	}
}
