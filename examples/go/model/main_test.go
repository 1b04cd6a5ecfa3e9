// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// printed runs the program and gives what it printed.
func printed(t *testing.T, args ...string) (out, errors string, err error) {
	t.Helper()
	folder := t.TempDir()
	open := func(name string) *os.File {
		file, err := os.Create(filepath.Join(folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first, second := open("out"), open("errors")
	defer first.Close()
	defer second.Close()
	err = run(context.Background(), args, first, second)
	read := func(file *os.File) string {
		file.Seek(0, io.SeekStart)
		text, _ := io.ReadAll(file)
		return string(text)
	}
	return read(first), read(second), err
}

// TestModel runs on the folder that DSV4MX_MODEL names: three layers and a draft block.
func TestModel(t *testing.T) {
	path := os.Getenv("DSV4MX_MODEL")
	if path == "" {
		t.Skip("needs DSV4MX_MODEL")
	}
	out, errors, err := printed(t, "-device", "cpu", path)
	if err != nil {
		t.Fatal(err)
	}
	if errors != "" {
		t.Errorf("a file got the bar of a terminal: %q", errors)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 7 || !strings.HasPrefix(lines[0], "4 layers with experts, ") || !strings.HasSuffix(lines[0], "all loaded together") {
		t.Fatalf("%q", out)
	}
	sum := 0
	for i, name := range []string{"layers.3", "layers.4", "layers.5", "mtp.0", "total"} {
		fields := strings.Fields(lines[i+2])
		bytes, err := strconv.Atoi(fields[1])
		if len(fields) != 4 || fields[0] != name || err != nil || bytes <= 0 {
			t.Fatalf("%q, wanted the row of %s", lines[i+2], name)
		}
		if name == "total" && bytes != sum {
			t.Errorf("the total is %d, the sum %d", bytes, sum)
		}
		sum += bytes
	}
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"/none"}, "IO_ERROR"},
		{[]string{"-device", "cpu", "-top-k", "17", path}, ""}, // no more than a layer's experts
		{[]string{"-device", "cpu", "-clamp", "-1", path}, "clamp_limit"},
		{[]string{"-device", "tpu", path}, "what is -device tpu"},
		{nil, "usage"},
	} {
		_, _, err := printed(t, c.args...)
		if c.text == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v, wanted %q", c.args, err, c.text)
		}
	}
}
