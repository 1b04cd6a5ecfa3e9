// SPDX-License-Identifier: Apache-2.0

// Minimal applies a random MoE layer to 8 tokens on the CPU.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

func main() {
	const hidden, intermediate, experts, topK, tokens = 256, 128, 8, 2, 8
	ctx := context.Background()
	device := must(dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: dsv4mx.DeviceCPU}))
	layer := must(dsv4mx.NewLayer(device, dsv4mx.LayerDesc{Hidden: hidden, Intermediate: intermediate, Experts: experts,
		TopK: topK, ClampLimit: 10, W13Order: dsv4mx.W13OrderGateUp}))
	weights := must(dsv4mx.NewWeights(layer, nil))
	set := func(name string, rows, k int) error {
		codes := make([]byte, experts*rows*k/2) // two E2M1 codes a byte
		rand.NewChaCha8([32]byte{}).Read(codes)
		scales := bytes.Repeat([]byte{120}, experts*rows*k/32) // one E8M0 scale for 32: 2^(120 - 127)
		return errors.Join(weights.Set(ctx, name+"_weight", -1, dsv4mx.Of(codes, experts, rows, k/2), nil),
			weights.Set(ctx, name+"_weight_scale", -1, dsv4mx.Of(scales, experts, rows, k/32), nil))
	}
	err := errors.Join(set("w13", 2*intermediate, hidden), set("w2", hidden, intermediate), weights.Prepare(ctx, nil))
	x, out := make([]dsv4mx.BF16, tokens*hidden), make([]dsv4mx.BF16, tokens*hidden)
	for i := range x {
		x[i] = dsv4mx.NewBF16(float32(rand.NormFloat64()))
	}
	ids, router := make([]int32, tokens*topK), make([]float32, tokens*topK)
	for i := range ids {
		ids[i], router[i] = rand.Int32N(experts), 0.5
	}
	err = errors.Join(err, layer.Apply(weights, &dsv4mx.ApplyArgs{
		X: dsv4mx.Of(x, tokens, hidden), TopKIDs: dsv4mx.Of(ids, tokens, topK), TopKWeights: dsv4mx.Of(router, tokens, topK),
		Out: dsv4mx.Of(out, tokens, hidden), Workspace: must(dsv4mx.NewWorkspace(layer, tokens)),
	}, dsv4mx.StreamDefault))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: out[0] begins %.4v\n", must(layer.Query()).Backend, dsv4mx.FromBF16(out[:4]))
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
