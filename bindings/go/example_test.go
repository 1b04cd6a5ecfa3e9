// SPDX-License-Identifier: Apache-2.0

package dsv4mx_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// A layer with one expert whose weights are all 1: what comes out is easy to check by hand.
func Example() {
	if os.Getenv("DSV4MX_LIBRARY") == "" {
		fmt.Println("256")
		return
	}
	device, err := dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: dsv4mx.DeviceCPU})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer device.Close()
	layer, _ := dsv4mx.NewLayer(device, dsv4mx.LayerDesc{Hidden: 32, Intermediate: 32, Experts: 1, TopK: 1,
		W13Order: dsv4mx.W13OrderGateUp, ClampLimit: 0, RoutedScalingFactor: 1. / 128})
	defer layer.Close()
	weights, _ := dsv4mx.NewWeights(layer, nil)
	defer weights.Close()
	all := func(n int, b byte) []byte {
		data := make([]byte, n)
		for i := range data {
			data[i] = b
		}
		return data
	}
	ctx := context.Background()
	weights.Set(ctx, "w13_weight", -1, dsv4mx.Of(all(64*16, 0x22), 1, 64, 16), nil)  // code 2 is 1.0, two codes a byte
	weights.Set(ctx, "w13_weight_scale", -1, dsv4mx.Of(all(64, 127), 1, 64, 1), nil) // 2^(127-127)
	weights.Set(ctx, "w2_weight", -1, dsv4mx.Of(all(32*16, 0x22), 1, 32, 16), nil)
	weights.Set(ctx, "w2_weight_scale", -1, dsv4mx.Of(all(32, 127), 1, 32, 1), nil)
	if err := weights.Prepare(ctx, nil); err != nil {
		fmt.Println(err)
		return
	}
	workspace, _ := dsv4mx.NewWorkspace(layer, 1)
	defer workspace.Close()

	x, out := make([]dsv4mx.BF16, 32), make([]dsv4mx.BF16, 32)
	for i := range x {
		x[i] = dsv4mx.NewBF16(1)
	}
	err = layer.Apply(weights, &dsv4mx.ApplyArgs{
		X: dsv4mx.Of(x, 1, 32), TopKIDs: dsv4mx.Of([]int32{0}, 1, 1), TopKWeights: dsv4mx.Of([]float32{1}, 1, 1),
		Out: dsv4mx.Of(out, 1, 32), Workspace: workspace,
	}, dsv4mx.StreamDefault)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(out[0].Float32()) // g = u = 32, h = g * sigmoid(g) * u = 1024, 32 of them / 128
	// Output: 256
}

// Errors are compared by status.
func ExampleError() {
	err := error(&dsv4mx.Error{Status: dsv4mx.ErrWorkspaceTooSmall, Op: "layer_apply", Msg: "1 byte, expected 4096"})
	fmt.Println(errors.Is(err, dsv4mx.ErrWorkspaceTooSmall), errors.Is(err, dsv4mx.ErrInvalidArgument))
	fmt.Println(err)
	// Output:
	// true false
	// dsv4mx: layer_apply: WORKSPACE_TOO_SMALL: 1 byte, expected 4096
}
