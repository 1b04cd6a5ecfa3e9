// SPDX-License-Identifier: Apache-2.0

// Checkpoint loads one MoE layer of a checkpoint, applies it to random tokens and compares the result with the fp64
// reference of the CPU backend.
//
//	checkpoint [-layer N] [-top-k 6] [-tokens 16] [-device cpu|cuda|auto] FOLDER|INDEX|FILE
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/signal"
	"regexp"
	"strconv"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

func main() {
	// Ctrl-C ends a long load at once and cleanly.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	path                string
	layer, topK, tokens int
	device              dsv4mx.Device
	clamp               float64
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("checkpoint", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.layer, "layer", -1, "number of the layer; -1: the first that has experts")
	flags.IntVar(&o.topK, "top-k", 6, "experts per token")
	flags.IntVar(&o.tokens, "tokens", 16, "tokens")
	flags.Float64Var(&o.clamp, "clamp", 10, "clamp limit of the activation")
	device := flags.String("device", "auto", "auto, cpu or cuda")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	o.path = flags.Arg(0)
	known := map[string]dsv4mx.Device{"auto": dsv4mx.DeviceAuto, "cpu": dsv4mx.DeviceCPU, "cuda": dsv4mx.DeviceCUDA}
	var ok bool
	if o.device, ok = known[*device]; !ok {
		return o, fmt.Errorf("what is -device %s? auto, cpu and cuda are known", *device)
	}
	if flags.NArg() != 1 || o.tokens < 1 {
		return o, errors.New("usage: checkpoint [-layer N] [-top-k N] [-tokens N] [-device auto|cpu|cuda] CHECKPOINT")
	}
	return o, nil
}

// layer is a loaded layer and what closes it.
type layer struct {
	*dsv4mx.Layer
	weights *dsv4mx.Weights
	device  *dsv4mx.Context
}

func (l *layer) Close() {
	l.weights.Close()
	l.Layer.Close()
	l.device.Close()
}

// load opens a device and loads the layer onto it.
func load(ctx context.Context, checkpoint *dsv4mx.Checkpoint, desc dsv4mx.LayerDesc, o options, device dsv4mx.Device, progress *bar) (*layer, error) {
	l := &layer{}
	var err error
	if l.device, err = dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: device}); err != nil {
		return nil, err
	}
	if l.Layer, err = dsv4mx.NewLayer(l.device, desc); err != nil {
		l.device.Close()
		return nil, err
	}
	if l.weights, err = dsv4mx.NewWeights(l.Layer, nil); err != nil {
		l.Layer.Close()
		l.device.Close()
		return nil, err
	}
	call := dsv4mx.CallOptions{Progress: progress.show}
	err = l.weights.Load(ctx, checkpoint, dsv4mx.Block{Index: o.layer}, &dsv4mx.LoadOptions{CallOptions: call})
	if err == nil {
		err = l.weights.Prepare(ctx, &call)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func run(ctx context.Context, args []string, out, stderr *os.File) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	progress := newBar(stderr)
	defer progress.end()
	checkpoint, err := dsv4mx.NewCheckpoint(ctx, o.path, &dsv4mx.CheckpointOptions{Progress: progress.show})
	if err != nil {
		return err
	}
	defer checkpoint.Close()
	if o.layer < 0 {
		if o.layer, err = firstLayer(checkpoint); err != nil {
			return err
		}
	}
	desc, err := checkpoint.QueryLayer(dsv4mx.Block{Index: o.layer})
	if err != nil {
		return err
	}
	desc.TopK, desc.ClampLimit = o.topK, float32(o.clamp)
	l, err := load(ctx, checkpoint, desc, o, o.device, progress)
	if err != nil {
		return err
	}
	defer l.Close()
	info, err := l.Query()
	if err != nil {
		return err
	}
	progress.end()
	fmt.Fprintf(out, "layer %d: hidden %d, intermediate %d, %d experts, %d bytes prepared, on %s\n", o.layer, info.Hidden,
		info.Intermediate, info.Experts, info.PreparedBytes, info.Backend)

	in := randomInputs(o.tokens, desc)
	got, err := apply(l.device, l.Layer, l.weights, desc, in)
	if err != nil {
		return err
	}

	// The reference runs on the CPU. There the weights at hand serve it, else they are loaded once more.
	desc.Experimental = &dsv4mx.LayerExperimental{Oracle: dsv4mx.OracleTruth}
	want, err := reference(ctx, checkpoint, l, info.Device, desc, o, in, progress)
	if err != nil {
		return err
	}
	progress.end()
	e := relativeError(got, want)
	fmt.Fprintf(out, "error %.3e relative L2 over %d tokens\n", e, o.tokens)
	if !(e < 0.01) {
		return fmt.Errorf("the error %.3e is above 0.01", e)
	}
	return nil
}

// firstLayer is the lowest number among the names of experts.
func firstLayer(checkpoint *dsv4mx.Checkpoint) (int, error) {
	expert := regexp.MustCompile(`(?:^|\.)layers\.(\d+)\..*experts\.`)
	first := -1
	for name := range checkpoint.Names() {
		if found := expert.FindStringSubmatch(name); found != nil {
			if n, err := strconv.Atoi(found[1]); err == nil && (first < 0 || n < first) {
				first = n
			}
		}
	}
	if first < 0 {
		return 0, errors.New("the checkpoint has no layer with experts")
	}
	return first, nil
}

func reference(ctx context.Context, checkpoint *dsv4mx.Checkpoint, l *layer, device dsv4mx.Device, desc dsv4mx.LayerDesc,
	o options, in inputs, progress *bar) ([]dsv4mx.BF16, error) {
	if device != dsv4mx.DeviceCPU {
		cpu, err := load(ctx, checkpoint, desc, o, dsv4mx.DeviceCPU, progress)
		if err != nil {
			return nil, err
		}
		defer cpu.Close()
		return apply(cpu.device, cpu.Layer, cpu.weights, desc, in)
	}
	oracle, err := dsv4mx.NewLayer(l.device, desc)
	if err != nil {
		return nil, err
	}
	defer oracle.Close()
	return apply(l.device, oracle, l.weights, desc, in)
}

type inputs struct {
	tokens  int
	x       []dsv4mx.BF16
	ids     []int32
	weights []float32
}

// randomInputs are seeded: two runs print the same.
func randomInputs(tokens int, desc dsv4mx.LayerDesc) inputs {
	r := rand.New(rand.NewPCG(1, 2))
	in := inputs{tokens: tokens}
	for range tokens {
		for range desc.Hidden {
			in.x = append(in.x, dsv4mx.NewBF16(float32(r.NormFloat64())))
		}
		chosen := r.Perm(desc.Experts)
		for k := range desc.TopK {
			in.ids = append(in.ids, int32(chosen[k%len(chosen)]))
			in.weights = append(in.weights, 1/float32(desc.TopK))
		}
	}
	return in
}

func apply(device *dsv4mx.Context, layer *dsv4mx.Layer, weights *dsv4mx.Weights, desc dsv4mx.LayerDesc, in inputs) ([]dsv4mx.BF16, error) {
	workspace, err := dsv4mx.NewWorkspace(layer, in.tokens)
	if err != nil {
		return nil, err
	}
	defer workspace.Close()
	x, err := dsv4mx.Upload(device, in.x, 0)
	if err != nil {
		return nil, err
	}
	defer x.Close()
	ids, err := dsv4mx.Upload(device, in.ids, 0)
	if err != nil {
		return nil, err
	}
	defer ids.Close()
	router, err := dsv4mx.Upload(device, in.weights, 0)
	if err != nil {
		return nil, err
	}
	defer router.Close()
	out, err := dsv4mx.NewBuffer(device, 2*len(in.x))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := layer.Apply(weights, &dsv4mx.ApplyArgs{
		X:           x.Tensor(dsv4mx.DtypeBF16, in.tokens, desc.Hidden),
		TopKIDs:     ids.Tensor(dsv4mx.DtypeI32, in.tokens, desc.TopK),
		TopKWeights: router.Tensor(dsv4mx.DtypeF32, in.tokens, desc.TopK),
		Out:         out.Tensor(dsv4mx.DtypeBF16, in.tokens, desc.Hidden),
		Workspace:   workspace,
	}, 0); err != nil {
		return nil, err
	}
	return dsv4mx.Download[dsv4mx.BF16](out, len(in.x), 0)
}

func relativeError(got, want []dsv4mx.BF16) float64 {
	difference, size := 0.0, 0.0
	for i := range want {
		w := float64(want[i].Float32())
		d := float64(got[i].Float32()) - w
		difference += d * d
		size += w * w
	}
	return math.Sqrt(difference / size)
}
