// SPDX-License-Identifier: Apache-2.0

// Model loads the experts of all MoE layers of a model folder, draft blocks included, and says how fast. Each layer is
// applied once to see that it works. Before the first byte is read the program asks what the model needs: layers that fit
// together stay loaded together, else each is freed before the next.
//
//	model [-device auto|cpu|cuda] [-top-k 6] [-clamp 10] FOLDER
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
	"strings"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

const tokens = 4

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
	path   string
	device dsv4mx.Device
	topK   int
	clamp  float64
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("model", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.topK, "top-k", 6, "experts per token")
	flags.Float64Var(&o.clamp, "clamp", 10, "clamp limit of the activation")
	device := flags.String("device", "auto", "auto, cpu or cuda")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	known := map[string]dsv4mx.Device{"auto": dsv4mx.DeviceAuto, "cpu": dsv4mx.DeviceCPU, "cuda": dsv4mx.DeviceCUDA}
	var ok bool
	if o.device, ok = known[*device]; !ok {
		return o, fmt.Errorf("what is -device %s? auto, cpu and cuda are known", *device)
	}
	if o.path = flags.Arg(0); flags.NArg() != 1 {
		return o, errors.New("usage: model [-device auto|cpu|cuda] [-top-k 6] [-clamp 10] FOLDER")
	}
	return o, nil
}

// bar is the progress over all layers on one line of a terminal: each counts the same, nine tenths of it for loading.
type bar struct {
	to           *os.File
	name         string
	index, count int
	shown        bool
}

func newBar(to *os.File, count int) *bar {
	info, err := to.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("TERM") == "dumb" {
		to = nil
	}
	return &bar{to: to, count: count}
}

func (b *bar) show(stage dsv4mx.Stage, done, total int64) bool {
	if b.to == nil || total == 0 {
		return true
	}
	part := float64(done) / float64(total)
	here := 0.9 + 0.1*part
	if stage == dsv4mx.StageLoad {
		here = 0.9 * part
	}
	all := (float64(b.index) + here) / float64(b.count)
	full := int(40 * all)
	fmt.Fprintf(b.to, "\r\033[K[%s%s] %3.0f %% %s", strings.Repeat("#", full), strings.Repeat(".", 40-full), 100*all, b.name)
	b.shown = true
	return true
}

func (b *bar) end() {
	if b.shown {
		fmt.Fprint(b.to, "\r\033[K")
		b.shown = false
	}
}

// loaded is a layer on the device, and what the table says of it.
type loaded struct {
	name    string
	layer   *dsv4mx.Layer
	weights *dsv4mx.Weights
	bytes   int
	seconds float64
}

func (l *loaded) close() {
	if l.weights != nil {
		l.weights.Close()
	}
	if l.layer != nil {
		l.layer.Close()
	}
}

func name(block dsv4mx.Block) string {
	switch block.Kind {
	case dsv4mx.BlockLayer:
		return fmt.Sprintf("layers.%d", block.Index)
	case dsv4mx.BlockMTP:
		return fmt.Sprintf("mtp.%d", block.Index)
	}
	return block.Prefix
}

// load fills l, which is to be closed whatever the result.
func (l *loaded) load(ctx context.Context, device *dsv4mx.Context, checkpoint *dsv4mx.Checkpoint, block dsv4mx.Block, o options, b *bar) error {
	desc, err := checkpoint.QueryLayer(block)
	if err != nil {
		return err
	}
	desc.TopK, desc.ClampLimit = min(o.topK, desc.ExpertsGlobal), float32(o.clamp)
	if l.layer, err = dsv4mx.NewLayer(device, desc); err != nil {
		return err
	}
	if l.weights, err = dsv4mx.NewWeights(l.layer, nil); err != nil {
		return err
	}
	begin := time.Now()
	call := dsv4mx.CallOptions{Progress: b.show}
	if err = l.weights.Load(ctx, checkpoint, block, &dsv4mx.LoadOptions{CallOptions: call}); err != nil {
		return err
	}
	if err = l.weights.Prepare(ctx, &call); err != nil {
		return err
	}
	if err = device.Synchronize(0); err != nil {
		return err
	}
	l.seconds = time.Since(begin).Seconds()
	info, err := l.layer.Query()
	l.bytes = info.PreparedBytes
	return err
}

// smokeCheck sends a few random tokens through the layer: what comes out is finite and not all zero.
func (l *loaded) smokeCheck(device *dsv4mx.Context) error {
	info, err := l.layer.Query()
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]dsv4mx.BF16, tokens*info.Hidden)
	for i := range x {
		x[i] = dsv4mx.NewBF16(float32(r.NormFloat64()))
	}
	ids, router := make([]int32, tokens*info.TopK), make([]float32, tokens*info.TopK)
	for i := range ids {
		ids[i], router[i] = int32(i%info.ExpertsGlobal), 1/float32(info.TopK)
	}
	y, err := apply(device, l, info, x, ids, router)
	if err != nil {
		return err
	}
	sum := 0.0
	for _, v := range y {
		sum += math.Abs(float64(v.Float32()))
	}
	if sum == 0 || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return fmt.Errorf("%s: the layer gives %g for random tokens", l.name, sum)
	}
	return nil
}

func apply(device *dsv4mx.Context, l *loaded, info dsv4mx.LayerInfo, x []dsv4mx.BF16, ids []int32, router []float32) ([]dsv4mx.BF16, error) {
	workspace, err := dsv4mx.NewWorkspace(l.layer, tokens)
	if err != nil {
		return nil, err
	}
	defer workspace.Close()
	in, err := dsv4mx.Upload(device, x, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	chosen, err := dsv4mx.Upload(device, ids, 0)
	if err != nil {
		return nil, err
	}
	defer chosen.Close()
	weights, err := dsv4mx.Upload(device, router, 0)
	if err != nil {
		return nil, err
	}
	defer weights.Close()
	out, err := dsv4mx.NewBuffer(device, 2*len(x))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	if err := l.layer.Apply(l.weights, &dsv4mx.ApplyArgs{
		X:           in.Tensor(dsv4mx.DtypeBF16, tokens, info.Hidden),
		TopKIDs:     chosen.Tensor(dsv4mx.DtypeI32, tokens, info.TopK),
		TopKWeights: weights.Tensor(dsv4mx.DtypeF32, tokens, info.TopK),
		Out:         out.Tensor(dsv4mx.DtypeBF16, tokens, info.Hidden),
		Workspace:   workspace,
	}, 0); err != nil {
		return nil, err
	}
	return dsv4mx.Download[dsv4mx.BF16](out, len(x), 0)
}

func run(ctx context.Context, args []string, out, stderr *os.File) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	checkpoint, err := dsv4mx.NewCheckpoint(ctx, o.path, nil)
	if err != nil {
		return err
	}
	defer checkpoint.Close()
	device, err := dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: o.device})
	if err != nil {
		return err
	}
	defer device.Close()
	need, err := checkpoint.QueryModel(device, nil)
	if err != nil {
		return err
	}
	together := need.BlocksFitting < 0 || need.BlocksFitting == need.Blocks
	how := "one loaded after the other"
	if together {
		how = "all loaded together"
	}
	fmt.Fprintf(out, "%d layers with experts, %.3f GB, %s\n", need.Blocks, 1e-9*float64(need.PreparedBytes), how)

	all := make([]loaded, checkpoint.BlockCount())
	b := newBar(stderr, len(all))
	defer b.end()
	for i := range all {
		block, err := checkpoint.Block(i)
		if err != nil {
			return err
		}
		l := &all[i]
		l.name = name(block)
		b.index, b.name = i, l.name
		defer l.close()
		if err := l.load(ctx, device, checkpoint, block, o, b); err != nil {
			return err
		}
		if !together {
			if err := l.smokeCheck(device); err != nil {
				return err
			}
			l.close()
		}
	}
	b.end()
	for i := range all {
		if !together {
			break
		}
		if err := all[i].smokeCheck(device); err != nil {
			return err
		}
	}

	fmt.Fprintf(out, "%-16s %14s %10s %8s\n", "layer", "bytes", "seconds", "GB/s")
	bytes, seconds := 0, 0.0
	row := func(name string, bytes int, seconds float64) {
		fmt.Fprintf(out, "%-16s %14d %10.3f %8.2f\n", name, bytes, seconds, 1e-9*float64(bytes)/seconds)
	}
	for _, l := range all {
		row(l.name, l.bytes, l.seconds)
		bytes += l.bytes
		seconds += l.seconds
	}
	row("total", bytes, seconds)
	return nil
}
