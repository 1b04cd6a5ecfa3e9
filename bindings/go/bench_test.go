// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"testing"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// BenchmarkApplyBound is the overhead of a call: no tokens, arguments bound once.
func BenchmarkApplyBound(b *testing.B) {
	l, args := noTokens(b)
	call := must[*Call](b)(l.layer.Bind(l.weights, args))
	defer call.Close()
	for b.Loop() {
		if err := call.Apply(0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApply binds for each call.
func BenchmarkApply(b *testing.B) {
	l, args := noTokens(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := l.layer.Apply(l.weights, args, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkApplyRaw is the raw layer alone.
func BenchmarkApplyRaw(b *testing.B) {
	l, args := noTokens(b)
	call := must[*Call](b)(l.layer.Bind(l.weights, args))
	defer call.Close()
	for b.Loop() {
		if status, _ := l.layer.lib.LayerApply(l.layer.handle(), l.weights.handle(), call.args, 0); status != raw.StatusOK {
			b.Fatal(status)
		}
	}
}

// BenchmarkVersion is the cheapest function there is: what a call costs at least.
func BenchmarkVersion(b *testing.B) {
	needLibrary(b)
	lib := must[*raw.Library](b)(library())
	for b.Loop() {
		lib.Version()
	}
}

func noTokens(b *testing.B) (*testLayer, *ApplyArgs) {
	l := newTestLayer(b, cpu(b), smallDesc())
	workspace := must[*Workspace](b)(NewWorkspace(l.layer, 1))
	b.Cleanup(func() { workspace.Close() })
	return l, l.inputs(0, 1).args(l, workspace)
}
