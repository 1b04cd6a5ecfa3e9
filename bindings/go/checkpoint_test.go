// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// writeCheckpoint writes a safetensors file with the experts of block 3, in DeepSeek's names, and gives the tensors.
func writeCheckpoint(t testing.TB, path string, desc LayerDesc) map[string][]byte {
	t.Helper()
	r := rand.New(rand.NewPCG(11, 1))
	header, tensors := map[string]any{}, map[string][]byte{}
	var data []byte
	add := func(name, dtype string, rows, columns int, scale bool) {
		content := make([]byte, rows*columns)
		for i := range content {
			if content[i] = byte(r.Uint32()); scale {
				content[i] = 118 + content[i]%6
			}
		}
		header[name] = map[string]any{"dtype": dtype, "shape": []int{rows, columns}, "data_offsets": []int{len(data), len(data) + len(content)}}
		data = append(data, content...)
		tensors[name] = content
	}
	for e := range desc.Experts {
		for _, m := range []struct {
			name    string
			rows, k int
		}{{"w1", desc.Intermediate, desc.Hidden}, {"w2", desc.Hidden, desc.Intermediate}, {"w3", desc.Intermediate, desc.Hidden}} {
			name := fmt.Sprintf("layers.3.ffn.experts.%d.%s", e, m.name)
			add(name+".weight", "I8", m.rows, m.k/2, false)
			add(name+".scale", "F8_E8M0", m.rows, m.k/32, true)
		}
	}
	text, err := json.Marshal(header)
	check(t, err)
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	check(t, os.WriteFile(path, append(append(file, text...), data...), 0o600))
	return tensors
}

// TestCheckpoint opens a file, reads it in both ways, loads its experts, and finds the same layer as by Set.
func TestCheckpoint(t *testing.T) {
	x := cpu(t)
	want := smallDesc()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	tensors := writeCheckpoint(t, path, want)
	ctx := context.Background()
	var stages []Stage
	k := must[*Checkpoint](t)(NewCheckpoint(ctx, path, &CheckpointOptions{Progress: func(stage Stage, _, _ int64) bool {
		stages = append(stages, stage)
		return true
	}}))
	defer k.Close()
	if !slices.Contains(stages, StageOpen) {
		t.Errorf("stages %v", stages)
	}
	names := slices.Collect(k.Names())
	if len(names) != len(tensors) || k.Count() != len(tensors) || !slices.IsSorted(names) || k.Name(-1) != "" || k.Name(len(names)) != "" {
		t.Errorf("%d names, wanted %d in order", len(names), len(tensors))
	}
	name := "layers.3.ffn.experts.2.w2.scale"
	got := make([]byte, len(tensors[name])-3)
	check(t, k.Read(name, 3, got))
	if !bytes.Equal(got, tensors[name][3:]) {
		t.Error("Read gave other bytes")
	}
	check(t, k.Read(name, 0, nil))
	if err := k.Read(name, 4, got); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("a range outside: %v", err)
	}
	if _, err := k.Tensor("none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such tensor: %v", err)
	}
	tensor := must[Tensor](t)(k.Tensor(name))
	if tensor.Dtype() != DtypeE8M0 || !slices.Equal(tensor.Shape(), []int{64, 1}) {
		t.Errorf("%s %v", tensor.Dtype(), tensor.Shape())
	}
	if _, err := k.QueryLayer(Block{Index: 4}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such block: %v", err)
	}

	desc := must[LayerDesc](t)(k.QueryLayer(Block{Index: 3}))
	if desc.Hidden != want.Hidden || desc.Intermediate != want.Intermediate || desc.Experts != want.Experts {
		t.Errorf("%+v", desc)
	}
	desc.TopK, desc.ClampLimit = want.TopK, want.ClampLimit
	l := must[*Layer](t)(NewLayer(x, desc))
	defer l.Close()
	loaded := must[*Weights](t)(NewWeights(l, nil))
	defer loaded.Close()
	stages = nil
	check(t, loaded.Load(ctx, k, Block{Index: 3}, &LoadOptions{CallOptions: CallOptions{Progress: func(stage Stage, _, _ int64) bool {
		stages = append(stages, stage)
		return true
	}}}))
	if !slices.Contains(stages, StageLoad) {
		t.Errorf("stages %v", stages)
	}
	check(t, loaded.Prepare(ctx, nil))

	set := must[*Weights](t)(NewWeights(l, nil))
	defer set.Close()
	prefix := must[*Checkpoint](t)(NewCheckpoint(ctx, path, &CheckpointOptions{Prefix: "layers.3.ffn.experts.1."}))
	if prefix.Count() != 6 {
		t.Errorf("%d tensors under the prefix", prefix.Count())
	}
	prefix.Close()
	for _, name := range names {
		check(t, set.Set(ctx, name, -1, must[Tensor](t)(k.Tensor(name)), nil))
	}
	check(t, set.Prepare(ctx, nil))
	if info := must[WeightsInfo](t)(set.Query()); info.State != WeightsPrepared || info.TensorsMissing != 0 || info.Bytes == 0 {
		t.Errorf("%+v", info)
	}
	workspace := must[*Workspace](t)(NewWorkspace(l, 5))
	defer workspace.Close()
	test := &testLayer{x, l, loaded, desc}
	one, two := test.inputs(5, 1), test.inputs(5, 1)
	check(t, l.Apply(loaded, one.args(test, workspace), 0))
	check(t, l.Apply(set, two.args(test, workspace), 0))
	if !slices.Equal(one.out, two.out) || one.out[0] == 0 {
		t.Error("loaded and set experts differ")
	}

	k.Close()
	if _, err := k.Tensor(name); !errors.Is(err, ErrInvalidState) {
		t.Errorf("Tensor after Close: %v", err)
	}
	if err := set.Set(ctx, name, -1, tensor, nil); !errors.Is(err, ErrInvalidState) || k.Count() != 0 || k.Name(0) != "" {
		t.Errorf("a tensor of a closed checkpoint: %v", err)
	}
}

// TestModel asks for the blocks and the whole model, and names a block by what it was given.
func TestModel(t *testing.T) {
	x := cpu(t)
	want := smallDesc()
	path := filepath.Join(t.TempDir(), "model.safetensors")
	tensors := writeCheckpoint(t, path, want)
	bytes := 0
	for _, content := range tensors {
		bytes += len(content)
	}
	k := must[*Checkpoint](t)(NewCheckpoint(context.Background(), path, nil))
	defer k.Close()
	if k.BlockCount() != 1 {
		t.Fatalf("%d blocks", k.BlockCount())
	}
	block := must[Block](t)(k.Block(0))
	if block != (Block{Kind: BlockLayer, Index: 3, Prefix: "layers.3.ffn."}) {
		t.Errorf("%+v", block)
	}
	desc := must[LayerDesc](t)(k.QueryLayer(block))
	if _, err := k.Block(1); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("a block beyond the last: %v", err)
	}
	desc.TopK = want.TopK
	l := must[*Layer](t)(NewLayer(x, desc))
	defer l.Close()
	layer := must[LayerInfo](t)(l.Query())
	workspace := must[WorkspaceInfo](t)(l.QueryWorkspace(64))
	options := &ModelOptions{Layer: LayerDesc{TopK: want.TopK}, MaxTokens: 64}
	info := must[ModelInfo](t)(k.QueryModel(x, options))
	if info.Blocks != 1 || info.BlocksFitting != 1 || info.SourceBytes != bytes || info.PreparedBytes != layer.PreparedBytes ||
		info.LargestBlockBytes != layer.PreparedBytes || info.WorkspaceBytes != workspace.Bytes || info.TotalBytes <= 0 {
		t.Errorf("%+v, wanted the figures of %+v", info, layer)
	}
	must[ModelInfo](t)(k.QueryModel(x, nil))
	options.TPSize = 3
	if _, err := k.QueryModel(x, options); !errors.Is(err, ErrUnsupportedShape) {
		t.Errorf("tp_size 3: %v", err)
	}
	k.Close()
	if _, err := k.QueryModel(x, nil); !errors.Is(err, ErrInvalidState) || k.BlockCount() != 0 {
		t.Errorf("QueryModel after Close: %v", err)
	}
	if _, err := k.Block(0); !errors.Is(err, ErrInvalidState) {
		t.Errorf("Block after Close: %v", err)
	}
}

// TestMarlin exports experts, imports them into another object, and finds the same layer.
func TestMarlin(t *testing.T) {
	x := cpu(t)
	desc := smallDesc()
	l := newTestLayer(t, x, desc)
	ctx := context.Background()
	h, i, err := l.layer.QueryMarlin()
	check(t, err)
	e := desc.Experts
	w13, w2 := make([]int32, e*h/16*4*i), make([]int32, e*i/16*2*h)
	scale13, scale2 := make([]byte, e*h/32*2*i), make([]byte, e*i/32*h)
	tensor := func(x Tensor) *Tensor { return &x }
	m := Marlin{
		W13: tensor(Of(w13, e, h/16, 4*i)), W13Scale: tensor(OfBytes(scale13, DtypeE8M0, e, h/32, 2*i)),
		W2: tensor(Of(w2, e, i/16, 2*h)), W2Scale: tensor(Of(scale2, e, i/32, h)),
	}
	check(t, l.weights.ExportMarlin(ctx, &m, nil))
	again := must[*Weights](t)(NewWeights(l.layer, nil))
	defer again.Close()
	check(t, again.ImportMarlin(ctx, &m, nil))
	check(t, again.Prepare(ctx, nil))
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 5))
	defer workspace.Close()
	one, two := l.inputs(5, 1), l.inputs(5, 1)
	check(t, l.layer.Apply(l.weights, one.args(l, workspace), 0))
	check(t, l.layer.Apply(again, two.args(l, workspace), 0))
	if !slices.Equal(one.out, two.out) || one.out[0] == 0 {
		t.Error("imported experts differ")
	}
	for what, wrong := range map[string]Marlin{
		"short":          {W13: tensor(Of(w13[1:], e, h/16, 4*i))},
		"shape":          {W2: tensor(Of(w2, e, i/16*2, h))},
		"dtype":          {W13Scale: tensor(Of(w13, e, h/16, 4*i))},
		"other padding":  {HiddenPadded: h + 64, W13: m.W13},
		"fewer experts":  {ExpertCount: e - 1, W13: m.W13},
		"mixed memory":   {W13: m.W13, W2: tensor(OnDevice(64, DtypeI32, e, i/16, 2*h))},
		"mixed biases":   {W13Bias: tensor(Of(make([]BF16, e*2*i), e, 2*i)), W2Bias: tensor(Of(make([]float32, e*h), e, h))},
		"beyond experts": {ExpertFirst: e + 1, W13: tensor(Of([]int32{}, -1, h/16, 4*i))},
	} {
		if err := l.weights.ExportMarlin(ctx, &wrong, nil); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
