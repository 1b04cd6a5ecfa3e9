// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// needLibrary skips where no library was named and none is found; the repository's tests name one.
func needLibrary(t testing.TB) {
	t.Helper()
	err := Load("")
	var failure *LoadError
	if errors.As(err, &failure) && failure.Reason() == raw.MissingFile && os.Getenv(raw.Variable) == "" {
		t.Skip("needs the library: " + err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// testDevices are the CPU and, where a context can be opened on it, the first CUDA device.
func testDevices(t testing.TB) []Device {
	t.Helper()
	list := []Device{DeviceCPU}
	count, err := DeviceCount(DeviceCUDA)
	if err != nil || count == 0 {
		t.Log("skipped: on a GPU: there is none")
		return list
	}
	if info, err := QueryDevice(DeviceCUDA, 0); err == nil && info.Supported {
		list = append(list, DeviceCUDA)
	}
	return list
}

// testLayer is a small layer with random experts on the CPU, prepared.
type testLayer struct {
	context *Context
	layer   *Layer
	weights *Weights
	desc    LayerDesc
}

func must[T any](t testing.TB) func(value T, err error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func cpu(t testing.TB) *Context {
	t.Helper()
	needLibrary(t)
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1}))
	t.Cleanup(func() { x.Close() })
	return x
}

func smallDesc() LayerDesc {
	return LayerDesc{Hidden: 64, Intermediate: 32, Experts: 4, TopK: 2, W13Order: W13OrderGateUp, ClampLimit: 10}
}

// fill sets random experts.
func fill(t testing.TB, w *Weights, desc LayerDesc, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	e, h, i := desc.Experts, desc.Hidden, desc.Intermediate
	set := func(name string, rows, columns int, scale bool) {
		data := make([]byte, e*rows*columns)
		for j := range data {
			if data[j] = byte(r.Uint32()); scale {
				data[j] = 118 + data[j]%6
			}
		}
		check(t, w.Set(context.Background(), name, -1, Of(data, e, rows, columns), nil))
	}
	set("w13_weight", 2*i, h/2, false)
	set("w13_weight_scale", 2*i, h/32, true)
	set("w2_weight", h, i/2, false)
	set("w2_weight_scale", h, i/32, true)
}

func newTestLayer(t testing.TB, x *Context, desc LayerDesc) *testLayer {
	t.Helper()
	l := must[*Layer](t)(NewLayer(x, desc))
	w := must[*Weights](t)(NewWeights(l, nil))
	fill(t, w, desc, 1)
	check(t, w.Prepare(context.Background(), nil))
	t.Cleanup(func() { w.Close(); l.Close() })
	return &testLayer{x, l, w, desc}
}

// inputs are random arguments of an apply in slices of Go.
type inputs struct {
	x, out  []BF16
	ids     []int32
	weights []float32
	tokens  int
}

func (l *testLayer) inputs(tokens int, seed uint64) *inputs {
	r := rand.New(rand.NewPCG(seed, 2))
	in := &inputs{tokens: tokens, out: make([]BF16, tokens*l.desc.Hidden)}
	for range tokens * l.desc.Hidden {
		in.x = append(in.x, NewBF16(float32(r.NormFloat64())))
	}
	for range tokens * l.desc.TopK {
		in.ids = append(in.ids, int32(r.IntN(l.desc.Experts)))
		in.weights = append(in.weights, r.Float32())
	}
	return in
}

func (in *inputs) args(l *testLayer, workspace *Workspace) *ApplyArgs {
	return &ApplyArgs{
		X:           Of(in.x, in.tokens, l.desc.Hidden),
		TopKIDs:     Of(in.ids, in.tokens, l.desc.TopK),
		TopKWeights: Of(in.weights, in.tokens, l.desc.TopK),
		Out:         Of(in.out, in.tokens, l.desc.Hidden),
		Workspace:   workspace,
	}
}
