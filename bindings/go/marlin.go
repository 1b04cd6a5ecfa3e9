// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Marlin is the Marlin MXFP4 form that SGLang and vLLM hold on Hopper; raw.Marlin says how each tensor is laid out. A
// tensor that is nil is left out. All of them lie in the same kind of memory.
type Marlin struct {
	// ExpertFirst is the first local expert covered.
	ExpertFirst int
	// ExpertCount is how many; 0: all from ExpertFirst on.
	ExpertCount int
	// HiddenPadded is a multiple of 64; 0: the default of Layer.QueryMarlin.
	HiddenPadded int
	// IntermediatePadded is a multiple of 32; 0: the default.
	IntermediatePadded int
	// W13 is int32 [count, hidden_padded/16, 4*intermediate_padded].
	W13 *Tensor
	// W13Scale is U8 or E8M0 [count, hidden_padded/32, 2*intermediate_padded].
	W13Scale *Tensor
	// W13Bias is BF16 or F32 [count, 2*intermediate_padded].
	W13Bias *Tensor
	// W2 is int32 [count, intermediate_padded/16, 2*hidden_padded].
	W2 *Tensor
	// W2Scale is U8 or E8M0 [count, intermediate_padded/32, hidden_padded].
	W2Scale *Tensor
	// W2Bias is BF16 or F32 [count, hidden_padded].
	W2Bias *Tensor
}

// QueryMarlin gives the paddings of SGLang's preparation.
func (l *Layer) QueryMarlin() (hiddenPadded, intermediatePadded int, err error) {
	const op = "layer_query_marlin"
	if err := l.acquire(op); err != nil {
		return 0, 0, err
	}
	defer l.release()
	r := raw.NewMarlin()
	status, text := l.lib.LayerQueryMarlin(l.handle(), &r)
	return int(r.HiddenPadded), int(r.IntermediatePadded), fail(op, status, text)
}

// ImportMarlin takes experts in Marlin form instead of Set. Ends with ctx; options may be nil.
func (w *Weights) ImportMarlin(ctx context.Context, marlin *Marlin, options *CallOptions) error {
	return w.marlin("weights_import_marlin", ctx, marlin, options, w.importMarlin)
}

// ExportMarlin fills the tensors with prepared experts, bit for bit what SGLang's preparation makes. Ends with ctx;
// options may be nil.
func (w *Weights) ExportMarlin(ctx context.Context, marlin *Marlin, options *CallOptions) error {
	return w.marlin("weights_export_marlin", ctx, marlin, options, w.lib.WeightsExportMarlin)
}

func (w *Weights) importMarlin(handle raw.Weights, m *raw.Marlin, args *raw.MarlinArgs, stream Stream) (Status, string) {
	return w.lib.WeightsImportMarlin(handle, m, args, stream)
}

func (w *Weights) marlin(op string, ctx context.Context, marlin *Marlin, options *CallOptions,
	call func(raw.Weights, *raw.Marlin, *raw.MarlinArgs, Stream) (Status, string)) error {
	holders := marlin.holders()
	if err := acquireAll(op, holders...); err != nil {
		return err
	}
	defer func() {
		for _, o := range holders {
			o.release()
		}
	}()
	if err := w.layer.acquire(op); err != nil {
		return err
	}
	defer w.layer.release()
	return w.change(op, options, nil, func(c *converter, options *CallOptions) (Status, string) {
		args := raw.NewMarlinArgs()
		args.Control = c.control(ctx, options.Progress)
		m := marlin.toRaw(c, w.layer)
		if c.err != nil {
			return StatusOK, ""
		}
		return call(w.handle(), m, &args, options.Stream)
	})
}

func (m *Marlin) tensors() [6]*Tensor {
	return [6]*Tensor{m.W13, m.W13Scale, m.W13Bias, m.W2, m.W2Scale, m.W2Bias}
}

func (m *Marlin) holders() (list []*object) {
	for _, t := range m.tensors() {
		if t != nil && t.holder != nil {
			list = append(list, t.holder)
		}
	}
	return list
}

func (m *Marlin) toRaw(c *converter, layer *Layer) *raw.Marlin {
	r := raw.NewMarlin()
	status, text := layer.lib.LayerQueryMarlin(layer.handle(), &r)
	if status != StatusOK {
		c.refuse(status, "%s", text)
		return &r
	}
	r.ExpertFirst = int32(c.number("expert_first", m.ExpertFirst, 4))
	r.ExpertCount = int32(c.number("expert_count", m.ExpertCount, 4))
	if m.HiddenPadded != 0 {
		r.HiddenPadded = int32(c.number("hidden_padded", m.HiddenPadded, 4))
	}
	if m.IntermediatePadded != 0 {
		r.IntermediatePadded = int32(c.number("intermediate_padded", m.IntermediatePadded, 4))
	}
	count, h, i := m.ExpertCount, int(r.HiddenPadded), int(r.IntermediatePadded)
	if count == 0 {
		count = layer.experts - m.ExpertFirst
	}
	memory := -1
	put := func(to *uintptr, name string, t *Tensor, shape []int, dtypes ...Dtype) {
		if t == nil {
			return
		}
		if memory >= 0 && Memory(memory) != t.memory {
			c.refuse(ErrInvalidArgument, "%s lies in other memory than the tensors before it", name)
		}
		memory = int(t.memory)
		*to = m.check(c, name, t, shape, dtypes)
	}
	scales := []Dtype{DtypeU8, DtypeE8M0}
	put(&r.W13, "w13", m.W13, []int{count, h / 16, 4 * i}, DtypeI32)
	put(&r.W13Scale, "w13_scale", m.W13Scale, []int{count, h / 32, 2 * i}, scales...)
	put(&r.W13Bias, "w13_bias", m.W13Bias, []int{count, 2 * i}, DtypeBF16, DtypeF32)
	put(&r.W2, "w2", m.W2, []int{count, i / 16, 2 * h}, DtypeI32)
	put(&r.W2Scale, "w2_scale", m.W2Scale, []int{count, i / 32, h}, scales...)
	put(&r.W2Bias, "w2_bias", m.W2Bias, []int{count, h}, DtypeBF16, DtypeF32)
	if memory >= 0 {
		r.Memory = Memory(memory)
	}
	for _, t := range []*Tensor{m.W13Bias, m.W2Bias} {
		if t == nil {
			continue
		}
		if r.BiasDtype != 0 && r.BiasDtype != t.dtype {
			c.refuse(ErrInvalidArgument, "w2_bias is %s and w13_bias %s, expected one dtype", t.dtype, r.BiasDtype)
		}
		r.BiasDtype = t.dtype
	}
	return &r
}

func (m *Marlin) check(c *converter, name string, t *Tensor, shape []int, dtypes []Dtype) uintptr {
	known := false
	for _, d := range dtypes {
		known = known || d == t.dtype
	}
	if !known {
		c.refuse(ErrInvalidArgument, "%s is %s, expected %v", name, t.dtype, dtypes)
	}
	same := t.rank == len(shape) && t.stride == [4]int{}
	for i := range min(t.rank, len(shape)) {
		same = same && t.shape[i] == shape[i]
	}
	if !same {
		c.refuse(ErrInvalidArgument, "%s is %v, expected %v without strides", name, t.Shape(), shape)
	}
	if wrong := t.check(); wrong != "" {
		c.refuse(ErrInvalidArgument, "%s: %s", name, wrong)
	}
	return t.pointer(c)
}
