// Minimal applies a random MoE layer to 8 tokens on the CPU.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

func main() {
	const hidden, intermediate, experts, topK, tokens = 256, 128, 8, 2, 8
	layer := dsv4mx.Must(dsv4mx.NewLayer(dsv4mx.Must(dsv4mx.NewCPUContext()), dsv4mx.LayerDesc{Hidden: hidden,
		Intermediate: intermediate, Experts: experts, TopK: topK, ClampLimit: 10, W13Order: dsv4mx.W13OrderGateUp}))
	codes := make([]byte, experts*2*intermediate*hidden/2) // two E2M1 codes a byte
	rand.NewChaCha8([32]byte{}).Read(codes)
	scales := slices.Repeat([]byte{120}, len(codes)/16) // one E8M0 scale for 32 codes: 2^(120 - 127)
	weights := dsv4mx.Must(dsv4mx.NewWeightsFrom(context.Background(), layer, map[string]dsv4mx.Tensor{
		"w13_weight":       dsv4mx.Of(codes, experts, 2*intermediate, hidden/2),
		"w13_weight_scale": dsv4mx.Of(scales, experts, 2*intermediate, hidden/32),
		"w2_weight":        dsv4mx.Of(codes[len(codes)/2:], experts, hidden, intermediate/2),
		"w2_weight_scale":  dsv4mx.Of(scales[len(scales)/2:], experts, hidden, intermediate/32),
	}))
	x := slices.Repeat(dsv4mx.ToBF16([]float32{1, -0.5, 0.25, 0}), tokens*hidden/4)
	ids, router := slices.Repeat([]int32{1, 6}, tokens), slices.Repeat([]float32{0.5}, tokens*topK)
	out := dsv4mx.Must(dsv4mx.ApplySlices(layer, weights, x, ids, router))
	fmt.Printf("%s: out[0] begins %.4v\n", dsv4mx.Must(layer.Query()).Backend, dsv4mx.FromBF16(out[:4]))
}
