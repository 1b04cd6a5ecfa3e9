// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"strings"
	"testing"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// TestRanks deals experts out, cuts them into slices, and does both.
func TestRanks(t *testing.T) {
	if os.Getenv("DSV4MX_LIBRARY") == "" {
		t.Skip("needs DSV4MX_LIBRARY")
	}
	runs := [][]string{{"1"}, {"2"}, {}, {"8"}, {"2", "2"}, {"4", "2"}}
	if count, err := dsv4mx.DeviceCount(dsv4mx.DeviceCUDA); err == nil && count > 0 {
		runs = append(runs, []string{"-device=cuda", "1"})
	}
	for _, args := range runs {
		var out strings.Builder
		if err := run(context.Background(), args, &out); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if bits := len(args) < 2 || args[1] == "1"; bits != strings.Contains(out.String(), "tokens: the bits of one rank") {
			t.Errorf("%v: %s", args, out.String())
		}
	}
	for _, args := range [][]string{{"3"}, {"4", "3"}, {"17"}, {"two"}, {"1", "1", "1"}} {
		if err := run(context.Background(), args, os.Stdout); err == nil || !strings.HasPrefix(err.Error(), "usage: ranks") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if err := run(context.Background(), []string{"-device", "abacus"}, os.Stdout); err == nil || !strings.Contains(err.Error(), "abacus") {
		t.Error(err)
	}
}
