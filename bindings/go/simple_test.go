// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// tensorsOf are those of fill, by name.
func tensorsOf(t *testing.T, desc LayerDesc) map[string]Tensor {
	t.Helper()
	e, h, i := desc.Experts, desc.Hidden, desc.Intermediate
	codes := make([]byte, e*2*i*h/2)
	for n := range codes {
		codes[n] = byte(n * 37)
	}
	scales := slices.Repeat([]byte{120}, len(codes)/16)
	return map[string]Tensor{
		"w13_weight": Of(codes, e, 2*i, h/2), "w13_weight_scale": Of(scales, e, 2*i, h/32),
		"w2_weight": Of(codes[:e*h*i/2], e, h, i/2), "w2_weight_scale": Of(scales[:e*h*i/32], e, h, i/32),
	}
}

// TestShortWays compares each with the long one, bit for bit.
func TestShortWays(t *testing.T) {
	needLibrary(t)
	before := live.Load()
	x := Must(NewCPUContext())
	if info := Must(x.Query()); info.Device != DeviceCPU {
		t.Errorf("device %v", info.Device)
	}
	desc := smallDesc()
	layer := Must(NewLayer(x, desc))
	weights := Must(NewWeightsFrom(t.Context(), layer, tensorsOf(t, desc)))
	long := must[*Weights](t)(NewWeights(layer, nil))
	for name, tensor := range tensorsOf(t, desc) {
		check(t, long.Set(t.Context(), name, -1, tensor, nil))
	}
	check(t, long.Prepare(t.Context(), nil))
	const tokens = 5
	in := (&testLayer{layer: layer, weights: long, desc: desc}).inputs(tokens, 6)
	workspace := must[*Workspace](t)(NewWorkspace(layer, tokens))
	check(t, layer.Apply(long, in.args(&testLayer{layer: layer, weights: long, desc: desc}, workspace), 0))

	if got := Must(ApplySlices(layer, weights, in.x, in.ids, in.weights)); !slices.Equal(got, in.out) {
		t.Error("ApplySlices gives other bits")
	}
	if got := Must(ApplySlices(layer, weights, nil, []int32{}, []float32{})); len(got) != 0 {
		t.Errorf("no tokens give %v", got)
	}

	// Without a workspace: one for the call, and one for the life of a Call.
	args := in.args(&testLayer{layer: layer, weights: long, desc: desc}, nil)
	args.Workspace = nil
	want := slices.Clone(in.out)
	clear(in.out)
	check(t, layer.Apply(weights, args, 0))
	if !slices.Equal(in.out, want) {
		t.Error("without a workspace: other bits")
	}
	call := must[*Call](t)(layer.Bind(weights, args))
	for range 2 {
		clear(in.out)
		check(t, call.Apply(0))
		if !slices.Equal(in.out, want) {
			t.Error("bound without a workspace: other bits")
		}
	}
	args.Out = Tensor{} // refused after the workspace was made
	if _, err := layer.Bind(weights, args); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("without out: %v", err)
	}
	for _, c := range []interface{ Close() error }{call, workspace, weights, long, layer, x} {
		c.Close()
	}
	if now := live.Load(); now != before {
		t.Errorf("%d objects are left", now-before)
	}
}

func TestShortWaysRefuse(t *testing.T) {
	needLibrary(t)
	x := cpu(t)
	desc := smallDesc()
	l := newTestLayer(t, x, desc)
	refused := func(err error, status Status, text string) {
		t.Helper()
		check(t, wantStatus(err, status, text))
	}
	h, k := desc.Hidden, desc.TopK
	_, err := ApplySlices(l.layer, l.weights, make([]BF16, 3*h+1), make([]int32, 3*k), make([]float32, 3*k))
	refused(err, ErrInvalidArgument, "x: 193 numbers, expected a multiple of hidden = 64")
	_, err = ApplySlices(l.layer, l.weights, make([]BF16, 3*h), make([]int32, 2*k), make([]float32, 3*k))
	refused(err, ErrInvalidArgument, "topk_ids: 16 bytes of I32 for shape [3 2], expected 24")
	_, err = ApplySlices(l.layer, l.weights, make([]BF16, 3*h), make([]int64, 3*k), make([]float32, 3*k))
	refused(err, ErrInvalidArgument, "topk_ids is I64, expected I32")

	before := live.Load()
	tensors := tensorsOf(t, desc)
	delete(tensors, "w2_weight")
	_, err = NewWeightsFrom(t.Context(), l.layer, tensors)
	refused(err, ErrNotFound, "w2.weight")
	tensors["w9_weight"] = tensors["w13_weight"]
	_, err = NewWeightsFrom(t.Context(), l.layer, tensors)
	refused(err, ErrNotFound, "w9_weight")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = NewWeightsFrom(ctx, l.layer, tensorsOf(t, desc)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if now := live.Load(); now != before {
		t.Errorf("%d objects are left", now-before)
	}
	if !slices.Contains(testDevices(t), DeviceCUDA) {
		return
	}
	cuda := newTestLayer(t, must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCUDA})), desc)
	_, err = ApplySlices(cuda.layer, cuda.weights, make([]BF16, 3*h), make([]int32, 3*k), make([]float32, 3*k))
	refused(err, ErrInvalidArgument, "workspace is nil")
}

func TestMustPanicsWithTheError(t *testing.T) {
	defer func() {
		if err, ok := recover().(error); !ok || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("panic with %v", err)
		}
	}()
	Must(os.Open(filepath.Join(t.TempDir(), "none")))
}
