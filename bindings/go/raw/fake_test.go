// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// headerFolder is the repository's include folder; outside of the repository the test is skipped.
func headerFolder(t testing.TB) string {
	t.Helper()
	folder, err := filepath.Abs("../../../include")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "dsv4mx.h")); err != nil {
		t.Skip("needs the repository: no include/dsv4mx.h")
	}
	return folder
}

// compile runs the C compiler.
func compile(t testing.TB, arguments ...string) {
	t.Helper()
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skipf("needs a C compiler: no %s", compiler)
	}
	if out, err := exec.Command(compiler, arguments...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", compiler, strings.Join(arguments, " "), err, out)
	}
}

// fake builds the stand-in. With all, functions that it does not define give 0.
func fake(t testing.TB, all bool, flags ...string) string {
	t.Helper()
	include := headerFolder(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "fake.so")
	arguments := []string{"-shared", "-fPIC", "-pthread", "-I" + include, "-o", path, "testdata/fake.c"}
	if all {
		own, err := os.ReadFile("testdata/fake.c")
		if err != nil {
			t.Fatal(err)
		}
		source := "#include <stdint.h>\n"
		for _, s := range symbols {
			if !strings.Contains(string(own), " "+s.name+"(") {
				source += fmt.Sprintf("uintptr_t %s(void) { return 0; }\n", s.name)
			}
		}
		rest := filepath.Join(folder, "rest.c")
		if err := os.WriteFile(rest, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, rest)
	}
	compile(t, append(arguments, flags...)...)
	return path
}
