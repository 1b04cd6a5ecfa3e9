// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
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

// TestCheckpoint runs on the folder that DSV4MX_CHECKPOINT names; examples/checkpoint_make writes one.
func TestCheckpoint(t *testing.T) {
	path := os.Getenv("DSV4MX_CHECKPOINT")
	if path == "" {
		t.Skip("needs DSV4MX_CHECKPOINT")
	}
	out, errors, err := printed(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^error \d\.\d+e-0\d relative L2 over 16 tokens$`).MatchString(out) {
		t.Errorf("%q", out)
	}
	if errors != "" {
		t.Errorf("a file got the progress of a terminal: %q", errors)
	}
	for _, c := range []struct {
		args []string
		text string
	}{
		{[]string{"/none"}, "IO_ERROR"},
		{[]string{"-layer", "77", path}, "NOT_FOUND"},
		{[]string{"-top-k", "17", path}, "UNSUPPORTED_SHAPE"},
		{[]string{"-device", "tpu", path}, "what is -device tpu"},
		{[]string{"-tokens", "0", path}, "usage"},
		{nil, "usage"},
	} {
		if _, _, err := printed(t, c.args...); err == nil || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%v: %v, wanted %q", c.args, err, c.text)
		}
	}
}

// TestBar draws on what counts as a terminal.
func TestBar(t *testing.T) {
	folder := t.TempDir()
	file, err := os.Create(filepath.Join(folder, "terminal"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := &bar{to: file}
	b.show(dsv4mx.StageLoad, 1, 4)
	b.show(dsv4mx.StageWait, 0, 0)
	b.end()
	b.end()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if want := "\r\033[KLOAD  25 %\r\033[KWAIT\r\033[K"; string(text) != want {
		t.Errorf("%q, wanted %q", text, want)
	}
	if newBar(file).to != nil {
		t.Error("a file counts as a terminal")
	}
	t.Setenv("TERM", "xterm")
	if terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		defer terminal.Close()
		if newBar(terminal).to == nil {
			t.Error("a terminal does not count as one")
		}
	}
}
