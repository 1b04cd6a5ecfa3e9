// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var background = context.Background()

// cancelled and late are contexts that end a call before it begins.
func cancelled() context.Context {
	ctx, cancel := context.WithCancel(background)
	cancel()
	return ctx
}

func late(t testing.TB) context.Context {
	ctx, cancel := context.WithDeadline(background, time.Now().Add(-time.Second))
	t.Cleanup(cancel)
	return ctx
}

// codes and scales of w13 and w2 of one expert, by a seed.
func expertTensors(seed int) map[string][]byte {
	out := map[string][]byte{}
	for name, size := range map[string]int{"w1.weight": 32 * 32, "w3.weight": 32 * 32, "w2.weight": 64 * 16} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte((i*7 + 1) * (seed*31 + len(name) + int(name[1])) >> 2)
		}
		scale := make([]byte, size/16)
		for i := range scale {
			scale[i] = byte(118 + (i+seed+int(name[1]))%4)
		}
		out[name], out[strings.Replace(name, "weight", "scale", 1)] = data, scale
	}
	return out
}

func setExpert(t testing.TB, w *Weights, expert, seed int) {
	t.Helper()
	for name, data := range expertTensors(seed) {
		rows := 32
		if strings.HasPrefix(name, "w2") {
			rows = 64
		}
		check(t, w.Set(background, name, expert, Of(data, rows, len(data)/rows), nil))
	}
}

// madeOf is prepared weights whose expert e has the numbers of seeds[e].
func madeOf(t testing.TB, l *Layer, seeds ...int) *Weights {
	t.Helper()
	w := must[*Weights](t)(NewWeights(l, nil))
	t.Cleanup(func() { w.Close() })
	for expert, seed := range seeds {
		setExpert(t, w, expert, seed)
	}
	check(t, w.Prepare(background, nil))
	return w
}

func newLayer(t testing.TB, x *Context, change func(desc *LayerDesc)) *testLayer {
	t.Helper()
	desc := smallDesc()
	if change != nil {
		change(&desc)
	}
	l := must[*Layer](t)(NewLayer(x, desc))
	t.Cleanup(func() { l.Close() })
	return &testLayer{context: x, layer: l, desc: desc}
}

// result is what the layer makes of 9 tokens with some weights.
func (l *testLayer) result(t testing.TB, w *Weights) []BF16 {
	t.Helper()
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 9))
	defer workspace.Close()
	in := l.inputs(9, 5)
	check(t, l.layer.Apply(w, in.args(l, workspace), 0))
	return in.out
}

func (l *testLayer) same(t testing.TB, w *Weights, want []BF16) {
	t.Helper()
	if !slices.Equal(l.result(t, w), want) {
		t.Error("other results than those of weights that were set so")
	}
}

func refusedAs(t testing.TB, err error, status Status, op string, words ...string) {
	t.Helper()
	var failure *Error
	if !errors.As(err, &failure) || failure.Status != status || failure.Op != op {
		t.Errorf("%v, wanted %s: %s", err, op, status)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in %v", word, err)
		}
	}
}

func TestCopyExperts(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w := madeOf(t, l.layer, 0, 1, 2, 3)
	before := l.result(t, w)
	one := newLayer(t, l.context, func(desc *LayerDesc) { desc.Experts, desc.TopK = 1, 1 })
	check(t, w.Replace(background, 2, madeOf(t, one.layer, 7), 0, nil))
	if slices.Equal(l.result(t, w), before) {
		t.Error("replaced, and nothing changed")
	}
	l.same(t, w, l.result(t, madeOf(t, l.layer, 0, 1, 7, 3)))
	source := madeOf(t, l.layer, 10, 11, 12, 13)
	var last [3]int64
	options := &CallOptions{Progress: func(stage Stage, done, total int64) bool {
		last = [3]int64{int64(stage), done, total}
		return true
	}}
	ctx, cancel := context.WithTimeout(background, time.Minute)
	defer cancel()
	check(t, w.CopyExperts(ctx, source, []int{3, 0}, []int{1, 2}, options))
	if last != [3]int64{int64(StageConvert), 2, 2} {
		t.Errorf("progress ended with %v", last)
	}
	check(t, w.CopyExperts(background, w, []int{1}, []int{3}, nil))
	check(t, w.CopyExperts(background, source, nil, nil, nil))
	want := l.result(t, madeOf(t, l.layer, 12, 11, 7, 11))
	l.same(t, w, want)

	const op = "weights_copy_experts"
	refusedAs(t, w.CopyExperts(background, source, []int{0, 1}, []int{0}, nil), ErrInvalidArgument, op, "2 entries")
	refusedAs(t, w.CopyExperts(background, source, []int{1 << 32}, []int{0}, nil), ErrInvalidArgument, op, "32 bits")
	refusedAs(t, w.Replace(background, 4, source, 0, nil), ErrInvalidArgument, op, "0..3")
	refusedAs(t, w.Replace(background, 1, w, 1, nil), ErrInvalidArgument, op, "either read or written")
	refusedAs(t, w.Replace(cancelled(), 1, source, 1, nil), ErrCancelled, op)
	refusedAs(t, w.Replace(late(t), 1, source, 1, nil), ErrDeadlineExceeded, op)
	stop := &CallOptions{Progress: func(Stage, int64, int64) bool { return false }}
	refusedAs(t, w.Replace(background, 1, source, 1, stop), ErrCancelled, op)
	empty := must[*Weights](t)(NewWeights(l.layer, nil))
	refusedAs(t, w.Replace(background, 1, empty, 1, nil), ErrInvalidState, op, "prepare")
	wide := newTestLayer(t, l.context, LayerDesc{Hidden: 96, Intermediate: 32, Experts: 4, TopK: 2, W13Order: W13OrderGateUp})
	refusedAs(t, w.Replace(background, 1, wide.weights, 1, nil), ErrUnsupported, op, "hidden 96", "hidden 64")
	l.same(t, w, want)

	check(t, empty.CopyExperts(background, source, []int{0, 1, 2, 3}, []int{3, 2, 1, 0}, nil))
	check(t, empty.Prepare(background, nil))
	l.same(t, empty, l.result(t, madeOf(t, l.layer, 13, 12, 11, 10)))
	check(t, empty.Close())
	refusedAs(t, w.Replace(background, 1, empty, 1, nil), ErrInvalidState, op, "closed")
}

// TestCopyBesideApplies replaces experts back and forth while others apply and take from each other: each result is that of the one
// expert or of the other.
func TestCopyBesideApplies(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w, other := madeOf(t, l.layer, 0, 1, 2, 3), madeOf(t, l.layer, 0, 1, 2, 9)
	one, two := l.result(t, w), l.result(t, other)
	var wait sync.WaitGroup
	for range 3 {
		wait.Go(func() {
			for range 100 {
				if got := l.result(t, w); !slices.Equal(got, one) && !slices.Equal(got, two) {
					t.Error("a mixed result")
				}
			}
		})
	}
	both := madeOf(t, l.layer, 9, 3, 0, 0)
	for _, pair := range [][2]*Weights{{w, both}, {both, w}} {
		wait.Go(func() {
			for i := range 100 {
				to, from := 3, i%2
				if pair[0] == both {
					to, from = 2, 1
				}
				check(t, pair[0].Replace(background, to, pair[1], from, nil))
			}
		})
	}
	wait.Wait()
}

func TestReset(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w := madeOf(t, l.layer, 0, 1, 2, 3)
	slab := must[Slab](t)(w.GetSlab(0))
	check(t, w.Reset())
	if info := must[WeightsInfo](t)(w.Query()); info.State != WeightsEmpty {
		t.Errorf("state %s", info.State)
	}
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 9))
	defer workspace.Close()
	refusedAs(t, l.layer.Apply(w, l.inputs(9, 5).args(l, workspace), 0), ErrInvalidState, "layer_apply")
	_, err := slab.Download(0)
	refusedAs(t, err, ErrInvalidState, "slab_download", "reset")
	refusedAs(t, madeOf(t, l.layer, 0, 1, 2, 3).SetSlab(background, 0, slab, nil), ErrInvalidState, "weights_set_slab", "reset")
	for expert := range 4 {
		setExpert(t, w, expert, 20+expert)
	}
	check(t, w.Prepare(background, nil))
	l.same(t, w, l.result(t, madeOf(t, l.layer, 20, 21, 22, 23)))
}

func TestGet(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w := madeOf(t, l.layer, 0, 1, 2, 3)
	get := func(name string, expert int) []byte {
		t.Helper()
		return must[[]byte](t)(GetTensor[uint8](background, w, name, expert, nil))
	}
	for expert := range 4 {
		low, high := 255, 0
		for name, data := range expertTensors(expert) {
			if !slices.Equal(get(name, expert), data) || !slices.Equal(get(fmt.Sprintf("layers.3.experts.%d.%s", expert, name), -1), data) {
				t.Errorf("expert %d: %s came back otherwise", expert, name)
			}
			if strings.Contains(name, "scale") {
				low, high = min(low, int(slices.Min(data))), max(high, int(slices.Max(data)))
			}
		}
		if info := must[ExpertInfo](t)(w.QueryExpert(expert)); info != (ExpertInfo{low, high}) {
			t.Errorf("expert %d: %+v, wanted %d..%d", expert, info, low, high)
		}
	}
	given := expertTensors(1)
	for name, same := range map[string]string{"gate_proj.scales": "w1.scale", "m.up_proj.weight_packed": "w3.weight", "w2_weight": "w2.weight",
		"w2_weight_scale": "w2.scale"} {
		if !slices.Equal(get(name, 1), given[same]) {
			t.Errorf("%s is not %s", name, same)
		}
	}
	numbers := must[[]BF16](t)(GetTensor[BF16](background, w, "w1.weight", 1, nil))
	code, scale := given["w1.weight"][0]&15, given["w1.scale"][0]
	value := [8]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6}[code&7] / float32(int(1)<<(127-scale))
	if code&8 != 0 {
		value = -value
	}
	if len(numbers) != 32*64 || numbers[0].Float32() != value {
		t.Errorf("%d weights, the first %v, wanted %v", len(numbers), numbers[0].Float32(), value)
	}
	wide := make([]int8, 32*64)
	check(t, w.Get(background, "w1.weight", 1, Of(wide[:len(wide)-1], 32, 32).Strided(64, 2), nil))
	if byte(wide[2]) != given["w1.weight"][1] || wide[1] != 0 {
		t.Error("strides")
	}
	buffer := must[*Buffer](t)(NewBuffer(l.context, 32*32))
	defer buffer.Close()
	check(t, w.Get(background, "w1.weight", 1, buffer.Tensor(DtypeU8, 32, 32), nil))
	if !slices.Equal(must[[]byte](t)(Download[byte](buffer, 32*32, 0)), given["w1.weight"]) {
		t.Error("into a buffer")
	}

	const op = "weights_get"
	data := make([]byte, 32*32)
	refusedAs(t, w.Get(background, "w1.weight", 4, Of(data, 32, 32), nil), ErrInvalidArgument, op, "0..3")
	refusedAs(t, w.Get(background, "w1.weight", 0, Of(data, 16, 64), nil), ErrInvalidTensor, op)
	refusedAs(t, w.Get(background, "w1.weight", 0, Of(data, 32, 64), nil), ErrInvalidTensor, op, "bytes")
	refusedAs(t, w.Get(background, "nonsense", 0, Of(data, 32, 32), nil), ErrNotFound, op, "nonsense")
	refusedAs(t, w.Get(background, "w13_weight", 0, Of(data, 32, 32), nil), ErrNotFound, op, "gate and up")
	refusedAs(t, w.Get(cancelled(), "w1.weight", 0, Of(data, 32, 32), nil), ErrCancelled, op)
	_, err := GetTensor[float32](background, w, "gate_proj.bias", 0, nil)
	refusedAs(t, err, ErrNotFound, op, "bias")
	_, err = w.QueryExpert(-1)
	refusedAs(t, err, ErrInvalidArgument, "weights_query_expert")
	empty := must[*Weights](t)(NewWeights(l.layer, nil))
	refusedAs(t, empty.Get(background, "w1.weight", 0, Of(data, 32, 32), nil), ErrInvalidState, op)
	check(t, empty.Close())
	refusedAs(t, empty.Get(background, "w1.weight", 0, Of(data, 32, 32), nil), ErrInvalidState, op, "closed")

	biased := newLayer(t, l.context, func(desc *LayerDesc) { desc.W2Bias, desc.Experts, desc.TopK = DtypeBF16, 1, 1 })
	w = must[*Weights](t)(NewWeights(biased.layer, nil))
	defer w.Close()
	setExpert(t, w, 0, 1)
	bias := make([]BF16, 64)
	for i := range bias {
		bias[i] = NewBF16(float32(i))
	}
	check(t, w.Set(background, "w2_bias", -1, Of(bias, 1, 64), nil))
	check(t, w.Prepare(background, nil))
	if back := must[[]float32](t)(GetTensor[float32](background, w, "w2_bias", 0, nil)); len(back) != 64 || back[63] != 63 {
		t.Errorf("w2_bias is %v", back)
	}
}

func TestSlabs(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w, source := madeOf(t, l.layer, 0, 1, 2, 3), madeOf(t, l.layer, 10, 11, 12, 13)
	borrowed := must[Slab](t)(source.GetSlab(1))
	if borrowed.Address() == 0 {
		t.Error("no address")
	}
	check(t, w.SetSlab(background, 0, borrowed, nil))
	data := must[[]byte](t)(borrowed.Download(0))
	if len(data) != borrowed.Size() {
		t.Errorf("%d bytes of %d", len(data), borrowed.Size())
	}
	check(t, source.Close())
	_, err := borrowed.Download(0)
	refusedAs(t, err, ErrInvalidState, "slab_download", "closed")
	refusedAs(t, w.SetSlab(background, 0, borrowed, nil), ErrInvalidState, "weights_set_slab", "closed")
	owned := Slab{ID: borrowed.ID, Bytes: Of(data, len(data))}
	check(t, w.SetSlab(background, 3, owned, nil))
	buffer := must[*Buffer](t)(Upload(l.context, data, 0))
	defer buffer.Close()
	check(t, w.SetSlab(background, 2, Slab{ID: owned.ID, Bytes: buffer.Tensor(DtypeU8, len(data))}, nil))
	want := l.result(t, madeOf(t, l.layer, 11, 1, 11, 11))
	l.same(t, w, want)
	if again := must[Slab](t)(w.GetSlab(3)); again.ID != owned.ID || !slices.Equal(must[[]byte](t)(again.Download(0)), data) {
		t.Error("a slab that was set comes back otherwise")
	}

	const op = "weights_set_slab"
	set := func(expert int, id uint64, bytes Tensor) error {
		return w.SetSlab(background, expert, Slab{ID: id, Bytes: bytes}, nil)
	}
	refusedAs(t, set(4, owned.ID, owned.Bytes), ErrInvalidArgument, op, "0..3")
	refusedAs(t, set(0, owned.ID^1, owned.Bytes), ErrUnsupported, op, "id")
	refusedAs(t, set(0, owned.ID, Of(data[1:], len(data)-1)), ErrBufferTooSmall, op)
	refusedAs(t, set(0, owned.ID, Of(append(slices.Clone(data), 0), len(data)+1)), ErrInvalidTensor, op)
	refusedAs(t, set(0, owned.ID, Of(data, 1, len(data))), ErrInvalidTensor, op, "rank 1")
	refusedAs(t, set(0, owned.ID, Tensor{}), ErrInvalidTensor, op)
	refusedAs(t, set(0, owned.ID, Of(slices.Repeat([]byte{255}, len(data)), len(data))), ErrInvalidScale, op)
	refusedAs(t, w.SetSlab(cancelled(), 0, owned, nil), ErrCancelled, op)
	_, err = w.GetSlab(4)
	refusedAs(t, err, ErrInvalidArgument, "weights_get_slab", "0..3")
	_, err = owned.Download(0)
	refusedAs(t, err, ErrInvalidArgument, "slab_download", "not borrowed")
	empty := must[*Weights](t)(NewWeights(l.layer, nil))
	defer empty.Close()
	_, err = empty.GetSlab(0)
	refusedAs(t, err, ErrInvalidState, "weights_get_slab")
	l.same(t, w, want)
}

func TestSetPlacement(t *testing.T) {
	x := cpu(t)
	l := newLayer(t, x, func(desc *LayerDesc) { desc.Placement, desc.ExpertsGlobal = []int32{0, 1, 2, 3}, 4 })
	w, copies := madeOf(t, l.layer, 0, 1, 2, 3), madeOf(t, l.layer, 0, 1, 2, 3)
	want := l.result(t, w)
	check(t, w.CopyExperts(background, copies, []int{0, 1, 2, 3}, []int{3, 1, 0, 2}, nil))
	if slices.Equal(l.result(t, w), want) {
		t.Error("experts moved, and nothing changed")
	}
	check(t, l.layer.SetPlacement([]int32{3, 1, 0, 2}, 0))
	l.same(t, w, want)

	const op = "layer_set_placement"
	refusedAs(t, l.layer.SetPlacement([]int32{0, 1, 2}, 0), ErrInvalidArgument, op, "3 entries", "4 experts")
	refusedAs(t, l.layer.SetPlacement([]int32{0, 1, 4, 2}, 0), ErrInvalidArgument, op, "placement[2]")
	l.same(t, w, want)
	plain := newLayer(t, x, nil)
	refusedAs(t, plain.layer.SetPlacement([]int32{0, 1, 2, 3}, 0), ErrInvalidState, op, "without a placement")
	check(t, plain.layer.Close())
	refusedAs(t, plain.layer.SetPlacement([]int32{0, 1, 2, 3}, 0), ErrInvalidState, op, "closed")
}

func TestSnapshots(t *testing.T) {
	l := newLayer(t, cpu(t), nil)
	w := madeOf(t, l.layer, 0, 1, 2, 3)
	path := filepath.Join(t.TempDir(), "layer.snapshot")
	var stages []Stage
	options := &SnapshotOptions{Threads: 2, Level: 3}
	options.Progress = func(stage Stage, _, _ int64) bool {
		stages = append(stages, stage)
		return true
	}
	ctx, cancel := context.WithTimeout(background, 10*time.Minute)
	defer cancel()
	check(t, w.Save(ctx, path, options))
	if len(stages) == 0 || stages[0] != StageSave {
		t.Errorf("stages %v", stages)
	}
	info, desc, err := QuerySnapshot(path)
	check(t, err)
	slab := must[Slab](t)(w.GetSlab(0))
	size := must[os.FileInfo](t)(os.Stat(path)).Size()
	if info.Experts != 4 || info.ExpertsGlobal != 4 || info.SlabID != slab.ID || int(info.SlabBytes) != slab.Size() || int64(info.FileBytes) != size ||
		info.ScaleMin != 118 || info.ScaleMax != 121 || !strings.HasPrefix(info.Layout, "cpu ") {
		t.Errorf("%+v", info)
	}
	again := &testLayer{context: l.context, layer: must[*Layer](t)(NewLayer(l.context, desc)), desc: desc}
	defer again.layer.Close()
	if one, two := must[LayerInfo](t)(l.layer.Query()), must[LayerInfo](t)(again.layer.Query()); one != two {
		t.Errorf("%+v from the snapshot's description, wanted %+v", two, one)
	}
	restored := must[*Weights](t)(NewWeights(again.layer, nil))
	defer restored.Close()
	check(t, restored.Restore(background, path, nil))
	again.same(t, restored, l.result(t, w))

	const save, restore = "weights_save", "weights_restore"
	none := filepath.Join(t.TempDir(), "none", "x")
	empty := must[*Weights](t)(NewWeights(l.layer, nil))
	defer empty.Close()
	refusedAs(t, w.Save(background, none, nil), ErrIOError, save)
	refusedAs(t, w.Save(background, "a\x00b", nil), ErrInvalidArgument, save, "zero byte")
	refusedAs(t, w.Save(background, path, &SnapshotOptions{Threads: 65}), ErrInvalidArgument, save, "65")
	refusedAs(t, w.Save(background, path, &SnapshotOptions{Level: 1 << 40}), ErrInvalidArgument, save, "32 bits")
	refusedAs(t, w.Save(cancelled(), path, nil), ErrCancelled, save)
	refusedAs(t, w.Save(late(t), path, nil), ErrDeadlineExceeded, save)
	stop := &SnapshotOptions{}
	stop.Progress = func(Stage, int64, int64) bool { return false }
	refusedAs(t, w.Save(background, path, stop), ErrCancelled, save)
	refusedAs(t, empty.Save(background, path, nil), ErrInvalidState, save)
	refusedAs(t, w.Restore(background, path, nil), ErrInvalidState, restore)
	refusedAs(t, empty.Restore(background, path, stop), ErrCancelled, restore)
	refusedAs(t, empty.Restore(background, none, nil), ErrIOError, restore)
	wide := newLayer(t, l.context, func(desc *LayerDesc) { desc.Hidden = 96 })
	other := must[*Weights](t)(NewWeights(wide.layer, nil))
	defer other.Close()
	refusedAs(t, other.Restore(background, path, nil), ErrInvalidTensor, restore)
	data := must[[]byte](t)(os.ReadFile(path))
	data[len(data)-1] ^= 1
	check(t, os.WriteFile(path, data, 0o600))
	refusedAs(t, empty.Restore(background, path, nil), ErrFormatError, restore)
	check(t, os.WriteFile(path, data[:20], 0o600))
	_, _, err = QuerySnapshot(path)
	refusedAs(t, err, ErrFormatError, "snapshot_query")
	_, _, err = QuerySnapshot(none)
	refusedAs(t, err, ErrIOError, "snapshot_query")
}
