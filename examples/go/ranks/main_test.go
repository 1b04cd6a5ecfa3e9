// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"strings"
	"testing"
)

// TestRanks deals experts out, cuts them into slices, and does both.
func TestRanks(t *testing.T) {
	if os.Getenv("DSV4MX_LIBRARY") == "" {
		t.Skip("needs DSV4MX_LIBRARY")
	}
	for _, args := range [][]string{{"1"}, {"2"}, {}, {"8"}, {"2", "2"}, {"4", "2"}} {
		var out strings.Builder
		if err := run(context.Background(), args, &out); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if bits := len(args) < 2; bits != strings.Contains(out.String(), "tokens: the bits of one rank") {
			t.Errorf("%v: %s", args, out.String())
		}
	}
	for _, args := range [][]string{{"3"}, {"4", "3"}, {"17"}, {"two"}, {"1", "1", "1"}} {
		if err := run(context.Background(), args, os.Stdout); err == nil || !strings.HasPrefix(err.Error(), "usage: ranks") {
			t.Errorf("%v: %v", args, err)
		}
	}
}
