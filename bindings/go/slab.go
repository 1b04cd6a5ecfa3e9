// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Slab is one prepared expert as bytes: all of it, relocatable, of one size for every expert of a layer. Weights.GetSlab gives
// one that is borrowed: its bytes lie inside the weights, which it keeps alive, and which say ErrInvalidState for it once
// they are closed or reset. Download copies the bytes out; a literal with ID and Bytes is one that owns them or that a
// transport brought.
type Slab struct {
	// ID is the form: slabs of the same id fit, in another process too; a CPU's and a GPU's differ.
	ID uint64
	// Bytes are a U8 tensor of rank 1: Of a slice of Go, or of a Buffer's memory.
	Bytes Tensor

	weights  *Weights // whose bytes they are, if they are borrowed
	fillings int
}

// GetSlab gives a prepared local expert as its bytes, in place. ErrInvalidArgument, ErrInvalidState (not prepared).
func (w *Weights) GetSlab(expert int) (Slab, error) {
	var out Slab
	err := w.read("weights_get_slab", nil, func(c *converter, _ *CallOptions) (Status, string) {
		number := int32(c.number("expert", expert, 4))
		if c.err != nil {
			return StatusOK, ""
		}
		slab := raw.NewSlab()
		status, text := w.lib.WeightsGetSlab(w.handle(), number, &slab)
		if status == StatusOK {
			t := made(DtypeU8, []int{int(slab.Bytes)})
			t.address, t.memory, t.bytes, t.holder, t.keep = slab.Data, slab.Memory, int(slab.Bytes), w.object, w
			out = Slab{slab.ID, t, w, w.fillings}
		}
		return status, text
	})
	return out, err
}

// SetSlab takes a local expert from its bytes, as CopyExperts does from another object. The bytes are read in the order of
// options.Stream. After a failure prepared weights are as before, and in others the expert counts as not set. Ends with ctx;
// options may be nil.
//
// Errors are those of CopyExperts, ErrUnsupported (an id of another form), ErrBufferTooSmall (too few bytes), ErrInvalidTensor
// (too many, or another type), ErrInvalidScale.
func (w *Weights) SetSlab(ctx context.Context, expert int, slab Slab, options *CallOptions) error {
	const op = "weights_set_slab"
	if slab.weights == nil && slab.Bytes.holder != nil {
		if err := slab.Bytes.holder.acquire(op); err != nil {
			return err
		}
		defer slab.Bytes.holder.release()
	}
	return w.take(op, options, slab.weights, func(c *converter, options *CallOptions) (Status, string) {
		slab.check(c)
		args := raw.NewExpertArgs()
		args.Control = c.control(ctx, options.Progress)
		number, r := int32(c.number("expert", expert, 4)), raw.NewSlab()
		r.ID, r.Memory = slab.ID, slab.Bytes.memory
		if r.Bytes = uintptr(slab.Size()); r.Bytes > 0 {
			r.Data = slab.Bytes.pointer(c)
		}
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsSetSlab(w.handle(), number, &r, &args, options.Stream)
	})
}

// Size is the number of bytes.
func (s Slab) Size() int { return s.Bytes.shape[0] }

// Address is where borrowed bytes lie, in the memory of the context's device, for a transport that reads them in place; 0 of
// others. They stay there until the weights are destroyed or reset.
func (s Slab) Address() uintptr {
	if s.weights == nil {
		return 0
	}
	return s.Bytes.address
}

// Download is a copy of the bytes of a borrowed slab, in the order of the stream; it waits.
func (s Slab) Download(stream Stream) ([]byte, error) {
	const op = "slab_download"
	if s.weights == nil {
		return nil, refuse(op, ErrInvalidArgument, "the slab is not borrowed: its bytes are the caller's already")
	}
	to := make([]byte, s.Size())
	w := s.weights
	err := w.read(op, nil, func(c *converter, _ *CallOptions) (Status, string) {
		if s.check(c); c.err != nil {
			return StatusOK, ""
		}
		c.pin(&to[0])
		device := raw.Context(w.layer.context.address)
		status, text := w.lib.ContextCopy(device, uintptr(unsafe.Pointer(&to[0])), s.Bytes.address, uintptr(len(to)), stream)
		if status != StatusOK {
			return status, text
		}
		return w.lib.ContextSynchronize(device, stream)
	})
	if err != nil {
		return nil, err
	}
	return to, nil
}

// check is called with the lock of the weights whose bytes they are.
func (s *Slab) check(c *converter) {
	t := &s.Bytes
	if s.weights != nil && s.weights.fillings != s.fillings {
		c.refuse(ErrInvalidState, "the weights of this slab were reset: download it before")
	}
	if t.rank != 1 || t.dtype != DtypeU8 || t.stride != [4]int{} {
		c.refuse(ErrInvalidTensor, "the slab is %v %s, expected U8 of rank 1 without strides", t.Shape(), t.dtype)
	}
	if wrong := t.check(); wrong != "" {
		c.refuse(ErrInvalidTensor, "the slab: %s", wrong)
	}
}
