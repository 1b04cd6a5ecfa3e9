// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Short ways for the common case: the CPU, slices of Go, tensors of all experts.

// Must is value, or a panic with err. It wraps a call in programs that cannot go on without its result, such as examples,
// tests and what is made once at the start:
//
//	layer := dsv4mx.Must(dsv4mx.NewLayer(device, desc))
func Must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// NewCPUContext opens the CPU with all threads that the process may use: what slices of Go need.
func NewCPUContext() (*Context, error) { return NewContext(&ContextOptions{Device: DeviceCPU}) }

// NewWeightsFrom makes weights from tensors of all experts by their names (see Weights.Set) and prepares them. Ends with ctx.
func NewWeightsFrom(ctx context.Context, layer *Layer, tensors map[string]Tensor) (*Weights, error) {
	w, err := NewWeights(layer, nil)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(tensors)) { // in one order, so that errors are the same each time
		if err == nil {
			err = w.Set(ctx, name, -1, tensors[name], nil)
		}
	}
	if err == nil {
		err = w.Prepare(ctx, nil)
	}
	if err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// ApplySlices is Layer.Apply on the CPU for a layer whose activations are bfloat16 on both sides: x holds the layer's Hidden
// numbers of each token, ids and weights its TopK. The result is a new slice. A loop that cares for allocations uses
// Layer.Bind or Layer.Apply.
func ApplySlices[I int32 | int64, W float32 | BF16](layer *Layer, weights *Weights, x []BF16, ids []I, router []W) ([]BF16, error) {
	tokens := len(x) / layer.hidden
	out := make([]BF16, len(x))
	args := &ApplyArgs{X: Of(x, tokens, layer.hidden), TopKIDs: Of(ids, tokens, layer.topK),
		TopKWeights: Of(router, tokens, layer.topK), Out: Of(out, tokens, layer.hidden)}
	if len(x)%layer.hidden != 0 {
		args.X.err = fmt.Sprintf("%d numbers, expected a multiple of hidden = %d", len(x), layer.hidden)
	}
	if err := layer.Apply(weights, args, StreamDefault); err != nil {
		return nil, err
	}
	return out, nil
}
