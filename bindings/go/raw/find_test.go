// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, path string, content []byte, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// patched is a copy of a file with bytes replaced.
func patched(t *testing.T, path string, offset int, with ...byte) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(content[offset:], with)
	return write(t, filepath.Join(t.TempDir(), "patched.so"), content, 0o700)
}

// TestReasons has a file for every reason why one cannot be loaded.
func TestReasons(t *testing.T) {
	whole := fake(t, true)
	folder := t.TempDir()

	dependency := filepath.Join(folder, "libgone.so.3")
	compile(t, "-shared", "-fPIC", "-x", "c", "/dev/null", "-Wl,-soname,libgone.so.3", "-o", dependency)
	dependent := fake(t, true, "-Wl,--no-as-needed", dependency)
	if err := os.Remove(dependency); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(folder, "program")
	compile(t, "-no-pie", "-o", program, write(t, filepath.Join(folder, "main.c"), []byte("int main(void) { return 0; }\n"), 0o600))
	unresolved := filepath.Join(folder, "unresolved.so")
	compile(t, "-shared", "-fPIC", "-o", unresolved,
		write(t, filepath.Join(folder, "u.c"), []byte("void nobody(void); void (*p)(void) = nobody;\n"), 0o600))

	for _, c := range []struct {
		what, path string
		reason     Reason
		text       string
	}{
		{"missing", filepath.Join(folder, "none.so"), MissingFile, ""},
		{"missing folder", filepath.Join(folder, "no/such/none.so"), MissingFile, ""},
		{"missing by name", "libdsv4mx-none.so.0", MissingFile, ""},
		{"dependency", dependent, MissingDependency, "libgone.so.3"},
		{"arm", patched(t, whole, 18, 0xb7, 0), WrongArchitecture, "found EM_AARCH64, wanted EM_X86_64"},
		{"32 bits", patched(t, whole, 4, 1), NotDsv4mx, ""},
		{"newer", fake(t, false, "-DFAKE_VERSION=0x000900", "-DFAKE_VERSION_ALONE"), WrongVersion, "found 0.9, wanted 0.1"},
		{"stable", fake(t, true, "-DFAKE_VERSION=0x010100"), WrongVersion, "found 1.1, wanted 0.1"},
		{"no functions", fake(t, false, "-DFAKE_VERSION_ALONE"), NotDsv4mx, "it has no function dsv4mx_"},
		{"another library", libraryOf(t, folder, "int other(void) { return 1; }\n"), NotDsv4mx, "it has no function dsv4mx_version"},
		{"text", write(t, filepath.Join(folder, "text.so"), []byte("INPUT(libdsv4mx.so.0)\n"), 0o600), NotDsv4mx, "no ELF file"},
		{"empty", write(t, filepath.Join(folder, "empty.so"), nil, 0o600), NotDsv4mx, "empty"},
		{"folder", folder, NotDsv4mx, "folder"},
		{"program", program, NotDsv4mx, "no shared library"},
		{"unresolved", unresolved, Refused, "nobody"},
		{"cut", write(t, filepath.Join(folder, "cut.so"), head(t, whole, 3000), 0o700), Refused, ""},
	} {
		_, err := Open(c.path)
		var failure *LoadError
		if !errors.As(err, &failure) || len(failure.Attempts) != 1 {
			t.Errorf("%s: %v, wanted a LoadError with one attempt", c.what, err)
			continue
		}
		a := failure.Attempts[0]
		if c.what == "32 bits" || c.what == "cut" { // what it is called depends on what the reader meets first
			if a.Reason == Loadable || a.Reason == MissingFile {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if a.Reason != c.reason || !strings.Contains(a.Text, c.text) || a.Path != c.path || failure.Reason() != c.reason {
			t.Errorf("%s: %q, wanted %s with %q", c.what, err, c.reason, c.text)
		}
		if !strings.Contains(err.Error(), c.path) || !strings.Contains(err.Error(), c.reason.String()) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q lacks path or reason, or has more than one line", c.what, err)
		}
	}
	if os.Getuid() == 0 {
		return // may read everything
	}
	if _, err := Open(write(t, filepath.Join(folder, "secret.so"), head(t, whole, 5000), 0)); err == nil || err.(*LoadError).Reason() != Unreadable {
		t.Errorf("unreadable: %v", err)
	}
}

func head(t *testing.T, path string, bytes int) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content[:bytes]
}

func libraryOf(t *testing.T, folder, source string) string {
	t.Helper()
	path := filepath.Join(folder, "other.so")
	compile(t, "-shared", "-fPIC", "-o", path, write(t, filepath.Join(folder, "other.c"), []byte(source), 0o600))
	return path
}

// A patch version may differ.
func TestPatchVersion(t *testing.T) {
	if _, err := Open(fake(t, true, "-DFAKE_VERSION=(DSV4MX_VERSION+7)")); err != nil {
		t.Error(err)
	}
}

// TestMain lets the test program stand in for a user's: as a child it only looks for the library and says what it found.
func TestMain(m *testing.M) {
	if os.Getenv("DSV4MX_TEST_FIND") == "" {
		os.Exit(m.Run())
	}
	library, err := Find()
	if err != nil {
		os.Stdout.WriteString("error " + err.Error())
		os.Exit(0)
	}
	os.Stdout.WriteString("found " + library.Path())
}

// search runs a copy of this program, in a folder of its own, that looks for the library.
func search(t *testing.T, program string, environment ...string) string {
	t.Helper()
	command := exec.Command(program)
	command.Env = append(environment, "DSV4MX_TEST_FIND=1")
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(bytes.TrimSpace(out))
}

// TestFind walks through the places in their order.
func TestFind(t *testing.T) {
	whole := fake(t, true)
	folder, other := t.TempDir(), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	program := write(t, filepath.Join(folder, "program"), content, 0o700)
	link := filepath.Join(other, "program")
	if err := os.Symlink(program, link); err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(folder, Soname)

	want := func(what, got string, words ...string) {
		t.Helper()
		for _, word := range words {
			if !strings.Contains(got, word) {
				t.Errorf("%s: %q lacks %q", what, got, word)
			}
		}
	}
	named := Variable + "=" + filepath.Join(other, "none.so")
	got := search(t, program, named)
	want("named and missing", got, "error", filepath.Join(other, "none.so")+" ("+Variable+"): missing file")
	if strings.Contains(got, beside) {
		t.Errorf("a file that was named is not the only one: %q", got)
	}
	want("nothing anywhere", search(t, program), "error", beside+" (beside the executable): missing file; then "+Soname,
		"missing file", Variable+" may name the file")

	system := filepath.Join(other, Soname)
	if err := os.Symlink(whole, system); err != nil {
		t.Fatal(err)
	}
	want("by soname", search(t, program, "LD_LIBRARY_PATH="+other), "found "+whole)
	want("named by soname", search(t, program, "LD_LIBRARY_PATH="+other, Variable+"="+Soname), "found "+whole)
	want("named", search(t, program, Variable+"="+whole), "found "+whole)

	write(t, beside, head(t, whole, 3000), 0o700)
	want("unusable beside the executable", search(t, program, "LD_LIBRARY_PATH="+other), "found "+whole)
	want("unusable everywhere", search(t, program), "error", beside+" (beside the executable): ", "; then "+Soname, ": missing file")
	if err := os.Remove(beside); err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	write(t, beside, content, 0o700)
	want("beside the executable", search(t, program, "LD_LIBRARY_PATH="+other), "found "+beside)
	want("beside the real executable", search(t, link), "found "+beside)
	command := exec.Command(program)
	command.Dir = other
	command.Env = []string{Variable + "=./" + Soname, "DSV4MX_TEST_FIND=1"}
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	want("named from here", string(out), "found "+whole)
}
