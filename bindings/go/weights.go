// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Weights are the experts of one layer: filled and prepared, or restored from a snapshot, and then changed by whole experts
// alone. Safe for many goroutines: what changes them waits for what reads them.
type Weights struct {
	owner
	layer    *Layer
	mutex    sync.RWMutex
	prepared atomic.Bool
	fillings int // how often they were reset; under the mutex
}

// WeightsDesc says where experts live.
type WeightsDesc struct {
	// Memory of at least LayerInfo.PreparedBytes; nil: allocated through the context.
	Memory *Buffer
}

// CallOptions are those of calls that may take long. The zero value is the default.
type CallOptions struct {
	// Progress is called at the begin and the end of each stage and at least once per second, on the goroutine that made
	// the call; false cancels it. It must not use the object that the call works on. A panic in it goes on in the call;
	// runtime.Goexit is not for it (raw.Hooks says why).
	Progress func(stage Stage, done, total int64) bool
	// Stream on which device memory is read and written.
	Stream Stream
}

// LoadOptions are those of Weights.Load.
type LoadOptions struct {
	CallOptions
	// StagingBytes is the largest staging; 0: 64 MiB.
	StagingBytes int
}

// NewWeights makes an empty weights object; desc may be nil.
func NewWeights(layer *Layer, desc *WeightsDesc) (*Weights, error) {
	const op = "weights_create"
	if err := layer.acquire(op); err != nil {
		return nil, err
	}
	defer layer.release()
	parents := []*object{layer.object}
	r := raw.NewWeightsDesc()
	if desc != nil && desc.Memory != nil {
		if err := desc.Memory.acquire(op); err != nil {
			return nil, err
		}
		defer desc.Memory.release()
		parents = append(parents, desc.Memory.object)
		r.Memory, r.MemoryBytes = desc.Memory.start, uintptr(desc.Memory.bytes)
	}
	lib := layer.lib
	var handle raw.Weights
	status, text := lib.WeightsCreate(layer.handle(), &r, &handle)
	if status != StatusOK {
		layer.finish()
		return nil, fail(op, status, text)
	}
	o := newObject(lib, "weights object", uintptr(handle), func() { lib.WeightsDestroy(handle) }, parents...)
	w := netted(&Weights{owner: owner{o}, layer: layer}, o)
	o.finish()
	return w, nil
}

func (w *Weights) handle() raw.Weights { return raw.Weights(w.address) }

// reading holds off what changes the weights, until the result is called.
func (w *Weights) reading() func() {
	w.mutex.RLock()
	return w.mutex.RUnlock
}

// change makes a call that changes the weights: one at a time. use are other objects of the call.
func (w *Weights) change(op string, options *CallOptions, use *object, call func(c *converter, options *CallOptions) (Status, string)) error {
	if use != nil {
		if err := use.acquire(op); err != nil {
			return err
		}
		defer use.release()
	}
	return w.locked(op, options, &w.mutex, call)
}

// read makes a call that only reads the weights.
func (w *Weights) read(op string, options *CallOptions, call func(c *converter, options *CallOptions) (Status, string)) error {
	return w.locked(op, options, w.mutex.RLocker(), call)
}

// take makes a call that changes the weights by what others hold; from may be nil, or the same. Locks are taken in one order,
// so that two that take from each other do not wait for ever.
func (w *Weights) take(op string, options *CallOptions, from *Weights, call func(c *converter, options *CallOptions) (Status, string)) error {
	if from == nil || from == w {
		return w.change(op, options, nil, call)
	}
	if err := from.acquire(op); err != nil {
		return err
	}
	defer from.release()
	if from.address < w.address {
		defer from.reading()()
		return w.locked(op, options, &w.mutex, call)
	}
	return w.locked(op, options, &w.mutex, func(c *converter, options *CallOptions) (Status, string) {
		defer from.reading()()
		return call(c, options)
	})
}

func (w *Weights) locked(op string, options *CallOptions, lock sync.Locker, call func(c *converter, options *CallOptions) (Status, string)) error {
	if options == nil {
		options = &CallOptions{}
	}
	if err := w.acquire(op); err != nil {
		return err
	}
	defer w.release()
	lock.Lock()
	defer lock.Unlock()
	c := &converter{op: op}
	defer c.done()
	status, text := call(c, options)
	w.finish()
	if c.err != nil {
		return c.err
	}
	return fail(op, status, text)
}

// Set copies one tensor into the weights. Names are those of checkpoints and engines: w13_weight, w13_weight_scale,
// w2_weight, w2_weight_scale, w13_bias, w2_bias, or w1.weight, w1.scale and so on with any prefix; "experts.M." in a name
// fixes the expert. Else `expert` is the local expert, or -1 for a tensor of all. The table of names and shapes is at
// raw.Library.WeightsSet. Ends with ctx.
func (w *Weights) Set(ctx context.Context, name string, expert int, tensor Tensor, options *CallOptions) error {
	return w.change("weights_set", options, tensor.holder, func(c *converter, options *CallOptions) (Status, string) {
		args := raw.NewSetArgs()
		args.Control = c.control(ctx, options.Progress)
		text, number, t := c.string("name", name), int32(c.number("expert", expert, 4)), tensor.toRaw(c, name)
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsSet(w.handle(), text, number, t, &args, options.Stream)
	})
}

// Prepare finishes the weights: it names what is missing and makes the backend's layout. Afterwards
// whole experts alone can change. Ends with ctx, and may be repeated then.
func (w *Weights) Prepare(ctx context.Context, options *CallOptions) error {
	return w.change("weights_prepare", options, nil, func(c *converter, options *CallOptions) (Status, string) {
		args := raw.NewPrepareArgs()
		args.Control = c.control(ctx, options.Progress)
		if c.err != nil {
			return StatusOK, ""
		}
		status, text := w.lib.WeightsPrepare(w.handle(), &args, options.Stream)
		if status == StatusOK {
			w.prepared.Store(true)
		}
		return status, text
	})
}

// Load sets every tensor of the experts held here from a block of a checkpoint; Prepare comes next. Ends with ctx.
// options may be nil.
func (w *Weights) Load(ctx context.Context, checkpoint *Checkpoint, block Block, options *LoadOptions) error {
	if options == nil {
		options = &LoadOptions{}
	}
	return w.change("weights_load", &options.CallOptions, checkpoint.object, func(c *converter, call *CallOptions) (Status, string) {
		args := raw.NewLoadArgs()
		args.Control = c.control(ctx, call.Progress)
		args.StagingBytes = int64(options.StagingBytes)
		b := block.toRaw(c)
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsLoad(w.handle(), checkpoint.handle(), b, &args, call.Stream)
	})
}

// Query gives state and sizes.
func (w *Weights) Query() (WeightsInfo, error) {
	const op = "weights_query"
	var out WeightsInfo
	if err := w.acquire(op); err != nil {
		return out, err
	}
	defer w.release()
	defer w.reading()()
	info := raw.NewWeightsInfo()
	status, text := w.lib.WeightsQuery(w.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// QueryCensus gives the census of scales. Experimental: outside every promise.
func (w *Weights) QueryCensus() (WeightsCensus, error) {
	const op = "weights_query_census"
	var out WeightsCensus
	if err := w.acquire(op); err != nil {
		return out, err
	}
	defer w.release()
	defer w.reading()()
	census := raw.NewWeightsCensus()
	status, text := w.lib.WeightsQueryCensus(w.handle(), &census)
	if status == StatusOK {
		out.fromRaw(&census)
	}
	return out, fail(op, status, text)
}
