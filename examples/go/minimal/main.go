// SPDX-License-Identifier: Apache-2.0

// Minimal applies a random MoE layer to 8 tokens on the CPU.
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

const hidden, intermediate, experts, topK, tokens = 256, 128, 8, 2, 8

func main() {
	device := must(dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: dsv4mx.DeviceCPU}))
	layer := must(dsv4mx.NewLayer(device, dsv4mx.LayerDesc{Hidden: hidden, Intermediate: intermediate, Experts: experts,
		TopK: topK, ClampLimit: 10, W13Order: dsv4mx.W13OrderGateUp}))
	weights := must(dsv4mx.NewWeights(layer, nil))
	set := func(name string, rows, k int) {
		codes := random(experts*rows*k/2, func() byte { return byte(rand.Uint32()) })        // two E2M1 codes a byte
		scales := random(experts*rows*k/32, func() byte { return byte(118 + rand.IntN(4)) }) // one for 32: 2^(118-127) and up
		check(weights.Set(context.Background(), name+"_weight", -1, dsv4mx.Of(codes, experts, rows, k/2), nil))
		check(weights.Set(context.Background(), name+"_weight_scale", -1, dsv4mx.Of(scales, experts, rows, k/32), nil))
	}
	set("w13", 2*intermediate, hidden)
	set("w2", hidden, intermediate)
	check(weights.Prepare(context.Background(), nil))

	x := random(tokens*hidden, func() dsv4mx.BF16 { return dsv4mx.NewBF16(float32(rand.NormFloat64())) })
	ids := random(tokens*topK, func() int32 { return rand.Int32N(experts) })
	router := random(tokens*topK, rand.Float32)
	out := make([]dsv4mx.BF16, tokens*hidden)
	check(layer.Apply(weights, &dsv4mx.ApplyArgs{
		X: dsv4mx.Of(x, tokens, hidden), TopKIDs: dsv4mx.Of(ids, tokens, topK), TopKWeights: dsv4mx.Of(router, tokens, topK),
		Out: dsv4mx.Of(out, tokens, hidden), Workspace: must(dsv4mx.NewWorkspace(layer, tokens)),
	}, dsv4mx.StreamDefault))
	fmt.Printf("%s: out[0] begins %.4v\n", must(layer.Query()).Backend, dsv4mx.FromBF16(out[:4]))
}

func random[T any](n int, next func() T) []T {
	values := make([]T, n)
	for i := range values {
		values[i] = next()
	}
	return values
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
