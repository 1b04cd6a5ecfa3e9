// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"strings"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// QueryExpert says what Prepare found in a local expert. ErrInvalidArgument, ErrInvalidState (not prepared).
func (w *Weights) QueryExpert(expert int) (ExpertInfo, error) {
	var out ExpertInfo
	err := w.read("weights_query_expert", nil, func(c *converter, _ *CallOptions) (Status, string) {
		number := int32(c.number("expert", expert, 4))
		if c.err != nil {
			return StatusOK, ""
		}
		info := raw.NewExpertInfo()
		status, text := w.lib.WeightsQueryExpert(w.handle(), number, &info)
		if status == StatusOK {
			out.fromRaw(&info)
		}
		return status, text
	})
	return out, err
}

// CopyExperts makes local expert toExperts[i] what prepared expert fromExperts[i] of `from` is. w may be prepared, and then
// stays so: applies enqueued before on options.Stream see the old experts, those after it the new ones, and the caller's
// events order other streams. Else the experts count as set. `from` may be w itself if no expert is both read and written,
// and may have another number of experts and another context of the same kind of device. On a GPU the call only enqueues.
// Ends with ctx: the text says how many experts are copied then. options may be nil.
//
// ErrInvalidArgument, ErrInvalidState (`from` is not prepared, the stream is being captured), ErrUnsupported (another form, or
// an expert that the number path of w does not allow), ErrCancelled, ErrDeadlineExceeded, ErrOutOfMemory, ErrCUDAError.
func (w *Weights) CopyExperts(ctx context.Context, from *Weights, toExperts, fromExperts []int, options *CallOptions) error {
	return w.take("weights_copy_experts", options, from, func(c *converter, options *CallOptions) (Status, string) {
		if len(toExperts) != len(fromExperts) {
			c.refuse(ErrInvalidArgument, "to_experts has %d entries and from_experts %d, expected the same number", len(toExperts),
				len(fromExperts))
		}
		args := raw.NewCopyArgs()
		args.ToExperts, args.FromExperts = c.numbers("to_experts", toExperts), c.numbers("from_experts", fromExperts)
		args.Count = int32(c.number("count", len(toExperts), 4))
		args.Control = c.control(ctx, options.Progress)
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsCopyExperts(w.handle(), from.handle(), &args, options.Stream)
	})
}

// Replace is CopyExperts for one. For new weights of one expert, `from` is set and prepared for a layer of one expert that is
// else the same.
func (w *Weights) Replace(ctx context.Context, expert int, from *Weights, fromExpert int, options *CallOptions) error {
	return w.CopyExperts(ctx, from, []int{expert}, []int{fromExpert}, options)
}

// Get writes one tensor of a prepared expert to `to`, bit for bit what was set, in the names of Set, those of w1, w2, w3 and
// of gate_proj, up_proj, down_proj, e.g. w1.weight. `expert` is the local expert, or -1 where the name has "experts.M.".
//
// Codes come as I8 or U8 [rows, K/2], scales as E8M0 or U8 [rows, K/32], biases as F32 [rows], and of codes also the weights
// themselves as BF16 [rows, K]. Rows are the channels held here, of w2 the hidden size; K is the other one. Strides may leave
// gaps. Waits for the stream; ends with ctx; options may be nil.
//
// ErrInvalidArgument, ErrInvalidState (not prepared), ErrInvalidTensor, ErrNotFound (no such name, a bias or an expert that is
// not held here), ErrCancelled, ErrDeadlineExceeded, ErrOutOfMemory, ErrCUDAError.
func (w *Weights) Get(ctx context.Context, name string, expert int, to Tensor, options *CallOptions) error {
	const op = "weights_get"
	if to.holder != nil {
		if err := to.holder.acquire(op); err != nil {
			return err
		}
		defer to.holder.release()
	}
	return w.read(op, options, func(c *converter, options *CallOptions) (Status, string) {
		args := raw.NewExpertArgs()
		args.Control = c.control(ctx, options.Progress)
		text, number, t := c.string("name", name), int32(c.number("expert", expert, 4)), to.toRaw(c, name)
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsGet(w.handle(), text, number, t, &args, options.Stream)
	})
}

// GetTensor is Weights.Get into a new slice, row-major: uint8 or int8 for codes, uint8 for scales, float32 for biases, BF16 for
// the weights themselves.
func GetTensor[T Element](ctx context.Context, from *Weights, name string, expert int, options *CallOptions) ([]T, error) {
	shape := from.form(name, dtypeOf[T]())
	count := 1
	for _, n := range shape {
		count *= n
	}
	to := make([]T, count)
	return to, from.Get(ctx, name, expert, Of(to, shape...), options)
}

// form is the shape of what a name means; of a name that means nothing the library tells.
func (w *Weights) form(name string, dtype Dtype) []int {
	matrix, kind := "", name
	if at := strings.LastIndexByte(name, '.'); at >= 0 {
		matrix, kind = name[:at], name[at+1:]
	}
	matrix = matrix[strings.LastIndexByte(matrix, '.')+1:]
	rows, k := w.layer.channels, w.layer.hidden
	if matrix == "w2" || matrix == "down_proj" || strings.HasPrefix(kind, "w2_") {
		rows, k = k, rows
	}
	switch {
	case strings.HasSuffix(kind, "bias"):
		return []int{rows}
	case strings.Contains(kind, "scale"):
		return []int{rows, k / 32}
	case dtype == DtypeBF16:
		return []int{rows, k}
	}
	return []int{rows, k / 2}
}

// Reset empties the weights: they can be filled and prepared again, in the same memory. On a GPU the caller has finished
// applies with them and copies from them. Slabs that were got before answer ErrInvalidState.
func (w *Weights) Reset() error {
	return w.change("weights_reset", nil, nil, func(*converter, *CallOptions) (Status, string) {
		status, text := w.lib.WeightsReset(w.handle())
		if status == StatusOK {
			w.prepared.Store(false)
			w.fillings++
		}
		return status, text
	})
}

// numbers gives an array of int32 of C.
func (c *converter) numbers(name string, values []int) uintptr {
	if len(values) == 0 {
		return uintptr(unsafe.Pointer(&empty))
	}
	list := make([]int32, len(values))
	for i, value := range values {
		list[i] = int32(c.number(name, value, 4))
	}
	c.pin(&list[0])
	return uintptr(unsafe.Pointer(&list[0]))
}
