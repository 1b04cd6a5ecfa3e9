// SPDX-License-Identifier: Apache-2.0

// Ranks runs one layer over several ranks of this process: a goroutine per rank, experts dealt out, tokens of its own on each.
//
//	ranks [-device cpu|cuda] [RANKS [TP]]     default 4 ranks, of which TP = 1 hold slices of the same experts
//
// With -device cuda ranks take the host's GPUs in turn. Every rank makes a context, its part of the layer and a communicator;
// Prepare tells the ranks who holds what; then each apply is the whole layer for the rank's own tokens. The result is compared
// with one rank that holds everything: the same bits without slices, close with them.
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
	"slices"
	"strconv"
	"sync"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

const hidden, intermediate, experts, topK, tokens = 256, 128, 16, 4, 64

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// matrices are one tensor of all experts, [experts, rows, k]: two codes a byte, a scale for 32.
type matrices struct {
	rows, k       int
	codes, scales []byte
}

func newMatrices(r *rand.Rand, rows, k int) matrices {
	m := matrices{rows, k, make([]byte, experts*rows*k/2), make([]byte, experts*rows*k/32)}
	for i := range m.codes {
		m.codes[i] = byte(r.Uint32())
	}
	for i := range m.scales {
		m.scales[i] = byte(118 + r.IntN(4))
	}
	return m
}

// slice is a part of a matrix.
type slice struct{ row, rows, column, columns int }

// set gives the part of one expert by strides: nothing is copied before the library does.
func (m *matrices) set(ctx context.Context, to *dsv4mx.Weights, name string, local, expert int, at slice) error {
	part := func(all []byte, perByte int) dsv4mx.Tensor {
		row := m.k / perByte
		from := all[(expert*m.rows+at.row)*row+at.column/perByte:]
		return dsv4mx.Of(from, at.rows, at.columns/perByte).Strided(row, 1)
	}
	return errors.Join(to.Set(ctx, name+".weight", local, part(m.codes, 2), nil),
		to.Set(ctx, name+".scale", local, part(m.scales, 32), nil))
}

// model is the whole layer and all tokens, as a checkpoint and a batch would give them.
type model struct {
	device  dsv4mx.Device
	devices int
	w13, w2 matrices
	x       []dsv4mx.BF16
	ids     []int32
	weights []float32
}

func newModel(r *rand.Rand) *model {
	m := &model{w13: newMatrices(r, 2*intermediate, hidden), w2: newMatrices(r, hidden, intermediate)}
	for range tokens * hidden {
		m.x = append(m.x, dsv4mx.NewBF16(float32(r.NormFloat64())))
	}
	for range tokens {
		for _, id := range r.Perm(experts)[:topK] {
			m.ids, m.weights = append(m.ids, int32(id)), append(m.weights, r.Float32())
		}
	}
	return m
}

// rank writes what rank `rank` of `size` gets for its tokens to their place in out. A size of 1 is the whole.
func (m *model) rank(ctx context.Context, rank, size, tp int, out []dsv4mx.BF16) error {
	parts, part, sliced := size/tp, rank/tp, rank%tp
	held, share := experts/parts, intermediate/tp
	device, err := dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: m.device, Ordinal: rank % m.devices})
	if err != nil {
		return err
	}
	defer device.Close()
	layer, err := dsv4mx.NewLayer(device, dsv4mx.LayerDesc{
		Hidden: hidden, Intermediate: intermediate, TopK: topK, Experts: held, ExpertsGlobal: experts, ExpertFirst: part * held,
		TPRank: sliced, TPSize: tp, SlotDtype: dsv4mx.DtypeBF16, // as the communicator's default
		Flags: dsv4mx.LayerBatchInvariant,
	})
	if err != nil {
		return err
	}
	defer layer.Close()
	weights, err := dsv4mx.NewWeights(layer, nil)
	if err != nil {
		return err
	}
	defer weights.Close()
	for local := range held {
		expert, first := part*held+local, sliced*share
		err := errors.Join(m.w13.set(ctx, weights, "w1", local, expert, slice{first, share, 0, hidden}),
			m.w13.set(ctx, weights, "w3", local, expert, slice{intermediate + first, share, 0, hidden}),
			m.w2.set(ctx, weights, "w2", local, expert, slice{0, hidden, first, share}))
		if err != nil {
			return err
		}
	}
	if err := weights.Prepare(ctx, nil); err != nil {
		return err
	}

	// Ranks of this process that give the same group find each other.
	comm, err := dsv4mx.NewComm(ctx, device, dsv4mx.CommDesc{
		Rank: rank, Size: size, TPSize: tp, Group: 1, MaxTokens: tokens, MaxHidden: hidden, MaxTopK: topK,
		Timeout: time.Minute, // ranks may share a device; 0 is 10 s
	}, nil)
	if err != nil {
		return err
	}
	defer comm.Close()
	if err := comm.Prepare(ctx, layer, nil); err != nil {
		return err
	}
	first, end := tokens*part/parts, tokens*(part+1)/parts
	workspace, err := comm.NewWorkspace(layer, end-first) // rows of other ranks need room too
	if err != nil {
		return err
	}
	defer workspace.Close()
	rows := end - first
	memory := &memory{device: device, cuda: m.device == dsv4mx.DeviceCUDA}
	defer memory.close()
	mine := out[first*hidden : end*hidden]
	args := &dsv4mx.ApplyArgs{
		X: place(memory, m.x[first*hidden:end*hidden], rows, hidden), TopKIDs: place(memory, m.ids[first*topK:end*topK], rows, topK),
		TopKWeights: place(memory, m.weights[first*topK:end*topK], rows, topK), Out: place(memory, mine, rows, hidden),
		Workspace: workspace, Comm: comm,
	}
	if memory.err != nil {
		return memory.err
	}
	if err := layer.Apply(weights, args, dsv4mx.StreamDefault); err != nil {
		return err
	}
	if memory.cuda { // Apply has only enqueued; the last buffer is out
		return dsv4mx.CopyOut(memory.buffers[len(memory.buffers)-1], mine, dsv4mx.StreamDefault)
	}
	return nil
}

// memory is where the tensors of a rank live: slices of Go on the CPU, buffers on a GPU.
type memory struct {
	device  *dsv4mx.Context
	cuda    bool
	buffers []*dsv4mx.Buffer
	err     error
}

func (m *memory) close() {
	for _, buffer := range m.buffers {
		buffer.Close()
	}
}

func place[T dsv4mx.Element](m *memory, values []T, shape ...int) dsv4mx.Tensor {
	tensor := dsv4mx.Of(values, shape...)
	if !m.cuda || m.err != nil {
		return tensor
	}
	buffer, err := dsv4mx.Upload(m.device, values, dsv4mx.StreamDefault)
	if err != nil {
		m.err = err
		return tensor
	}
	m.buffers = append(m.buffers, buffer)
	return buffer.Tensor(tensor.Dtype(), shape...)
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet("ranks", flag.ContinueOnError)
	name := flags.String("device", "cpu", "cpu or cuda")
	if err := flags.Parse(args); err != nil {
		return err
	}
	device, devices := dsv4mx.DeviceCPU, 1
	if *name == "cuda" {
		var err error
		if devices, err = dsv4mx.DeviceCount(dsv4mx.DeviceCUDA); err != nil {
			return err
		}
		device, devices = dsv4mx.DeviceCUDA, max(devices, 1) // without one the context says what is missing
	} else if *name != "cpu" {
		return fmt.Errorf("what is -device %s? cpu and cuda are known", *name)
	}
	size, tp := 4, 1
	for i, word := range flags.Args() {
		n, _ := strconv.Atoi(word)
		switch i {
		case 0:
			size = n
		case 1:
			tp = n
		default:
			size = 0
		}
	}
	if size < 1 || size > 16 || tp < 1 || size%tp != 0 || experts%(size/tp) != 0 || intermediate/32%tp != 0 {
		return errors.New("usage: ranks [-device cpu|cuda] [RANKS [TP]], RANKS up to 16, TP a divisor")
	}
	m := newModel(rand.New(rand.NewPCG(1, 1)))
	m.device, m.devices = device, devices
	one := make([]dsv4mx.BF16, tokens*hidden)
	if err := m.rank(ctx, 0, 1, 1, one); err != nil {
		return err
	}
	y := make([]dsv4mx.BF16, tokens*hidden)
	errs := make([]error, size)
	var ranks sync.WaitGroup
	for rank := range size {
		out := y
		if rank%tp != 0 {
			out = make([]dsv4mx.BF16, tokens*hidden) // tensor-parallel ranks of a part get the same rows
		}
		ranks.Go(func() {
			if err := m.rank(ctx, rank, size, tp, out); err != nil {
				errs[rank] = fmt.Errorf("rank %d: %w", rank, err)
			}
		})
	}
	ranks.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	same, distance := slices.Equal(y, one), relative(y, one)
	word, plural := "", "s"
	if !same {
		word = "not "
	}
	if size == 1 {
		plural = ""
	}
	fmt.Fprintf(stdout, "%d rank%s, %d tensor-parallel, %d tokens: %sthe bits of one rank, relative distance %.1e\n", size, plural, tp,
		tokens, word, distance)
	if tp == 1 && !same || !(distance < 5e-3) {
		return errors.New("another result than one rank's")
	}
	return nil
}

// relative is |y - one| / |one|.
func relative(y, one []dsv4mx.BF16) float64 {
	a, b := dsv4mx.FromBF16(y), dsv4mx.FromBF16(one)
	var difference, norm float64
	for i := range a {
		d, n := float64(a[i])-float64(b[i]), float64(b[i])
		difference += d * d
		norm += n * n
	}
	return math.Sqrt(difference / norm)
}
