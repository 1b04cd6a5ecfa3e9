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
	type arguments struct {
		args []string
		bits bool // without slices
	}
	runs := []arguments{{[]string{"1"}, true}, {[]string{"2"}, true}, {nil, true}, {[]string{"8"}, true}, {[]string{"2", "2"}, false},
		{[]string{"4", "2"}, false}}
	if count, err := dsv4mx.DeviceCount(dsv4mx.DeviceCUDA); err == nil && count > 0 {
		// Where there are fewer GPUs than ranks, several share one.
		for _, r := range [][]string{{"1"}, {"2"}, {}, {"2", "2"}} {
			runs = append(runs, arguments{append([]string{"-device=cuda"}, r...), len(r) < 2})
		}
	}
	for _, r := range runs {
		var out strings.Builder
		if err := run(context.Background(), r.args, &out); err != nil {
			t.Errorf("%v: %v", r.args, err)
		}
		if r.bits != strings.Contains(out.String(), "tokens: the bits of one rank") {
			t.Errorf("%v: %s", r.args, out.String())
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
