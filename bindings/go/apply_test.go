// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// oracle is the layer with the fp64 reference of the CPU backend on the same weights.
func (l *testLayer) oracle(t testing.TB, in *inputs) []BF16 {
	t.Helper()
	desc := l.desc
	desc.Experimental = &LayerExperimental{Oracle: OracleSpec}
	layer := must[*Layer](t)(NewLayer(l.context, desc))
	defer layer.Close()
	workspace := must[*Workspace](t)(NewWorkspace(layer, in.tokens))
	defer workspace.Close()
	copied := *in
	copied.out = make([]BF16, len(in.out))
	check(t, layer.Apply(l.weights, copied.args(l, workspace), 0))
	return copied.out
}

// distance is the relative L2 error.
func distance(got, want []BF16) float64 {
	difference, size := 0.0, 0.0
	for i := range want {
		d := float64(got[i].Float32()) - float64(want[i].Float32())
		difference += d * d
		size += float64(want[i].Float32()) * float64(want[i].Float32())
	}
	return math.Sqrt(difference / max(size, 1e-300))
}

// TestApply compares slices, strided rows, buffers and a bound call with the reference.
func TestApply(t *testing.T) {
	x := cpu(t)
	l := newTestLayer(t, x, smallDesc())
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 8))
	defer workspace.Close()
	in := l.inputs(8, 7)
	want := l.oracle(t, in)
	check(t, l.layer.Apply(l.weights, in.args(l, workspace), 0))
	if d := distance(in.out, want); !(d < 0.004) {
		t.Errorf("slices: relative error %v", d)
	}
	first := append([]BF16(nil), in.out...)

	call := must[*Call](t)(l.layer.Bind(l.weights, in.args(l, workspace)))
	defer call.Close()
	clear(in.out)
	runtime.GC()
	check(t, call.Apply(0))
	for i := range first {
		if in.out[i] != first[i] {
			t.Fatal("a bound call gave other bits")
		}
	}
	clear(in.out)
	check(t, call.ApplyTokens(3, 0))
	h := l.desc.Hidden
	if in.out[3*h-1] == 0 || in.out[3*h] != 0 {
		t.Errorf("3 of 8 tokens: %v %v", in.out[3*h-1], in.out[3*h])
	}
	for _, tokens := range []int{-1, 9} {
		if err := call.ApplyTokens(tokens, 0); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%d of 8 tokens: %v", tokens, err)
		}
	}

	wide := make([]BF16, 8*2*h)
	for row := range 8 {
		copy(wide[row*2*h:], in.x[row*h:(row+1)*h])
	}
	args := in.args(l, workspace)
	args.X = Of(wide, 8, h).Strided(2*h, 1)
	args.Out = Of(wide[h:], 8, h).Strided(2*h, 1)
	check(t, l.layer.Apply(l.weights, args, 0))
	for row := range 8 {
		if d := distance(wide[row*2*h+h:row*2*h+2*h], first[row*h:(row+1)*h]); d != 0 {
			t.Fatalf("alternating rows: row %d differs by %v", row, d)
		}
	}

	buffer := must[*Buffer](t)(Upload(x, in.x, 0))
	out := must[*Buffer](t)(NewBuffer(x, 2*8*h))
	args = in.args(l, workspace)
	args.X, args.Out = buffer.Tensor(DtypeBF16, 8, h), out.Tensor(DtypeBF16, 8, h)
	check(t, l.layer.Apply(l.weights, args, 0))
	check(t, x.Synchronize(0))
	if d := distance(must[[]BF16](t)(Download[BF16](out, 8*h, 0)), first); d != 0 {
		t.Errorf("buffers differ by %v", d)
	}
	buffer.Close()
	out.Close()
	if err := l.layer.Apply(l.weights, args, 0); !errors.Is(err, ErrInvalidState) {
		t.Errorf("a closed buffer: %v", err)
	}

	counts := make([]int64, l.desc.Experts)
	tensor := Of(counts, l.desc.Experts)
	args = in.args(l, workspace)
	args.ExpertCounts = &tensor
	check(t, l.layer.Apply(l.weights, args, 0))
	total := int64(0)
	for _, n := range counts {
		total += n
	}
	if total != int64(8*l.desc.TopK) {
		t.Errorf("counts %v", counts)
	}

	empty := l.inputs(0, 1)
	check(t, l.layer.Apply(l.weights, empty.args(l, workspace), 0))
}

// TestApplyRefuses has every wrong argument that Go can make; none reaches memory.
func TestApplyRefuses(t *testing.T) {
	x := cpu(t)
	l := newTestLayer(t, x, smallDesc())
	h, k := l.desc.Hidden, l.desc.TopK
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 8))
	defer workspace.Close()
	other := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1}))
	defer other.Close()
	foreign := must[*Buffer](t)(NewBuffer(other, 1<<20))
	defer foreign.Close()
	tiny := must[*Buffer](t)(NewBuffer(x, 1))
	defer tiny.Close()
	wide := make([]int64, 8*k)
	for _, c := range []struct {
		what   string
		status Status
		text   string
		change func(a *ApplyArgs)
	}{
		{"int64 ids", ErrInvalidArgument, "topk_ids is I64, expected I32", func(a *ApplyArgs) { a.TopKIDs = Of(wide, 8, k) }},
		{"float32 x", ErrInvalidArgument, "x is F32, expected BF16", func(a *ApplyArgs) { a.X = Of(make([]float32, 8*h), 8, h) }},
		{"bf16 weights", ErrInvalidArgument, "topk_weights is BF16", func(a *ApplyArgs) { a.TopKWeights = Of(make([]BF16, 8*k), 8, k) }},
		{"float32 out", ErrInvalidArgument, "out is F32", func(a *ApplyArgs) { a.Out = Of(make([]float32, 8*h), 8, h) }},
		{"short x", ErrInvalidArgument, "expected", func(a *ApplyArgs) { a.X = Of(make([]BF16, 8*h-1), 8, h) }},
		{"other tokens", ErrInvalidArgument, "out is [7 64], expected [8 64]", func(a *ApplyArgs) { a.Out = Of(make([]BF16, 7*h), 7, h) }},
		{"other hidden", ErrInvalidArgument, "x is [8 32]", func(a *ApplyArgs) { a.X = Of(make([]BF16, 8*32), 8, 32) }},
		{"flat x", ErrInvalidArgument, "x is [512]", func(a *ApplyArgs) { a.X = Of(make([]BF16, 8*h), 8*h) }},
		{"columns", ErrInvalidArgument, "strides", func(a *ApplyArgs) { a.X = Of(make([]BF16, 8*h), 8, h).Strided(1, 8) }},
		{"small workspace", ErrWorkspaceTooSmall, "", func(a *ApplyArgs) { a.Workspace = WorkspaceIn(tiny) }},
		{"foreign workspace", ErrInvalidArgument, "another context", func(a *ApplyArgs) { a.Workspace = WorkspaceIn(foreign) }},
		{"many multiprocessors", ErrInvalidArgument, "32 bits", func(a *ApplyArgs) { a.Multiprocessors = 1 << 40 }},
		{"nothing", ErrInvalidArgument, "", func(a *ApplyArgs) { a.X = Tensor{} }},
		{"short buffer", ErrInvalidArgument, "x: 1 bytes", func(a *ApplyArgs) { a.X = tiny.Tensor(DtypeBF16, 8, h) }},
		{"NULL", ErrInvalidArgument, "", func(a *ApplyArgs) { a.X = OnDevice(0, DtypeBF16, 8, h) }},
		{"counts", ErrInvalidArgument, "expert_counts is [3], expected [4]", func(a *ApplyArgs) {
			tensor := Of(make([]int64, 3), 3)
			a.ExpertCounts = &tensor
		}},
	} {
		args := l.inputs(8, 3).args(l, workspace)
		c.change(args)
		err := l.layer.Apply(l.weights, args, 0)
		var failure *Error
		if !errors.As(err, &failure) || failure.Status != c.status || failure.Op != "layer_apply" || !strings.Contains(failure.Msg, c.text) {
			t.Errorf("%s: %v, wanted %s with %q", c.what, err, c.status, c.text)
		}
	}
	fresh := must[*Weights](t)(NewWeights(l.layer, nil))
	defer fresh.Close()
	if err := l.layer.Apply(fresh, l.inputs(8, 3).args(l, workspace), 0); !errors.Is(err, ErrInvalidState) {
		t.Errorf("not prepared: %v", err)
	}
}

// TestGoroutines shares context, layer and weights among goroutines, with a workspace for each, and one for all.
func TestGoroutines(t *testing.T) {
	x := cpu(t)
	l := newTestLayer(t, x, smallDesc())
	shared := must[*Workspace](t)(NewWorkspace(l.layer, 4))
	defer shared.Close()
	base := l.inputs(4, 99)
	check(t, l.layer.Apply(l.weights, base.args(l, shared), 0))
	var wait sync.WaitGroup
	for g := range 16 {
		wait.Go(func() {
			workspace := shared
			if g%2 == 0 {
				own, err := NewWorkspace(l.layer, 4)
				if err != nil {
					t.Error(err)
					return
				}
				defer own.Close()
				workspace = own
			}
			in := l.inputs(4, 99)
			call, err := l.layer.Bind(l.weights, in.args(l, workspace))
			if err != nil {
				t.Error(err)
				return
			}
			defer call.Close()
			for range 50 {
				clear(in.out)
				if err := call.Apply(0); err != nil {
					t.Error(err)
					return
				}
				for i := range base.out {
					if in.out[i] != base.out[i] {
						t.Errorf("goroutine %d: other bits at %d", g, i)
						return
					}
				}
				if _, err := l.layer.Query(); err != nil {
					t.Error(err)
				}
				if _, err := l.weights.Query(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
}

// TestWeightsGoroutines changes weights from several goroutines while others look at them: one at a time in C.
func TestWeightsGoroutines(t *testing.T) {
	x := cpu(t)
	desc := smallDesc()
	l := must[*Layer](t)(NewLayer(x, desc))
	defer l.Close()
	w := must[*Weights](t)(NewWeights(l, nil))
	defer w.Close()
	var wait sync.WaitGroup
	for g := range 4 {
		wait.Go(func() {
			for range 20 {
				fill(t, w, desc, uint64(g))
				if _, err := w.Query(); err != nil {
					t.Error(err)
				}
				if _, err := l.QueryPlan(w, 5); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	// Progress runs inside of the call: two of them at once would be two calls at once.
	var inside atomic.Int64
	alone := &CallOptions{Progress: func(Stage, int64, int64) bool {
		if inside.Add(1) > 1 {
			t.Error("two calls change the weights at once")
		}
		time.Sleep(time.Millisecond)
		inside.Add(-1)
		return true
	}}
	scales := make([]byte, desc.Experts*desc.Hidden*desc.Intermediate/32)
	for range 4 {
		wait.Go(func() {
			for range 5 {
				if err := w.Set(context.Background(), "w2_weight_scale", -1, Of(scales, desc.Experts, desc.Hidden, desc.Intermediate/32), alone); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	prepared := make(chan error, 4)
	for range cap(prepared) {
		go func() { prepared <- w.Prepare(context.Background(), alone) }()
	}
	good := 0
	for range cap(prepared) {
		if err := <-prepared; err == nil {
			good++
		} else if !errors.Is(err, ErrInvalidState) {
			t.Error(err)
		}
	}
	if good != 1 {
		t.Errorf("prepared %d times", good)
	}
}
