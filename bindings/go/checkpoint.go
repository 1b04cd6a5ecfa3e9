// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"iter"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Checkpoint is an open checkpoint: a .safetensors file, an index, or the folder of either. Safe for many goroutines.
type Checkpoint struct{ owner }

// CheckpointOptions say how to open a checkpoint. The zero value is the default.
type CheckpointOptions struct {
	// Progress as in CallOptions.
	Progress func(stage Stage, done, total int64) bool
	// Prefix: only tensors whose names begin so are seen.
	Prefix string
	// Threads that read, 1..64; 0: the library's choice.
	Threads int
	// ReadPolicy says how bytes are read.
	ReadPolicy ReadPolicy
}

// NewCheckpoint opens a checkpoint; its headers are checked in full. Ends with ctx; options may be nil.
func NewCheckpoint(ctx context.Context, path string, options *CheckpointOptions) (*Checkpoint, error) {
	const op = "checkpoint_create"
	lib, err := library()
	if err != nil {
		return nil, err
	}
	if options == nil {
		options = &CheckpointOptions{}
	}
	c := &converter{op: op}
	defer c.done()
	args := raw.NewCheckpointArgs()
	args.Control = c.control(ctx, options.Progress)
	args.Prefix = c.text("prefix", options.Prefix)
	args.Threads = int32(c.number("threads", options.Threads, 4))
	args.ReadPolicy = options.ReadPolicy
	name := c.string("path", path)
	if c.err != nil {
		return nil, c.err
	}
	var handle raw.Checkpoint
	status, text := lib.CheckpointCreate(name, &args, &handle)
	if status != StatusOK {
		return nil, fail(op, status, text)
	}
	o := newObject(lib, "checkpoint", uintptr(handle), func() { lib.CheckpointDestroy(handle) })
	return netted(&Checkpoint{owner{o}}, o), nil
}

func (k *Checkpoint) handle() raw.Checkpoint { return raw.Checkpoint(k.address) }

// Count is the number of tensors; 0 once the checkpoint is closed.
func (k *Checkpoint) Count() int {
	if k.acquire("checkpoint_get_count") != nil {
		return 0
	}
	defer k.release()
	return int(k.lib.CheckpointGetCount(k.handle()))
}

// Name is the name of a tensor by its place in the order of names; "" if there is none.
func (k *Checkpoint) Name(index int) string {
	if k.acquire("checkpoint_get_name") != nil {
		return ""
	}
	defer k.release()
	return k.lib.CheckpointGetName(k.handle(), int64(index))
}

// Names runs over all names in order.
func (k *Checkpoint) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range k.Count() {
			if !yield(k.Name(i)) {
				return
			}
		}
	}
}

// Tensor is a tensor of the file, for Weights.Set. Its bytes are read through a mapping, which raises SIGBUS if the file
// becomes shorter meanwhile; Read never does.
func (k *Checkpoint) Tensor(name string) (Tensor, error) {
	const op = "checkpoint_get_tensor"
	if err := k.acquire(op); err != nil {
		return Tensor{}, err
	}
	defer k.release()
	c := converter{op: op}
	text := c.string("name", name)
	if c.err != nil {
		return Tensor{}, c.err
	}
	r := raw.NewTensor()
	status, message := k.lib.CheckpointGetTensor(k.handle(), text, &r)
	if status != StatusOK {
		return Tensor{}, fail(op, status, message)
	}
	shape := make([]int, r.Rank)
	for i := range shape {
		shape[i] = int(r.Shape[i])
	}
	t := made(r.Dtype, shape)
	t.address, t.memory, t.bytes, t.holder, t.keep = r.Data, r.Memory, -1, k.object, k
	return t, nil
}

// Read copies bytes from an offset of a tensor. What the file no longer holds is an error.
func (k *Checkpoint) Read(name string, offset int64, to []byte) error {
	const op = "checkpoint_read"
	if err := k.acquire(op); err != nil {
		return err
	}
	defer k.release()
	c := converter{op: op}
	defer c.done()
	text := c.string("name", name)
	address := uintptr(unsafe.Pointer(&empty))
	if len(to) > 0 {
		c.pin(&to[0])
		address = uintptr(unsafe.Pointer(&to[0]))
	}
	if c.err != nil {
		return c.err
	}
	status, message := k.lib.CheckpointRead(k.handle(), text, offset, address, uintptr(len(to)))
	return fail(op, status, message)
}

// QueryLayer reads the sizes and the row order of a block's experts; all other fields of the result are zero.
func (k *Checkpoint) QueryLayer(block Block) (LayerDesc, error) {
	const op = "checkpoint_query_layer"
	var out LayerDesc
	if err := k.acquire(op); err != nil {
		return out, err
	}
	defer k.release()
	c := &converter{op: op}
	defer c.done()
	b := block.toRaw(c)
	if c.err != nil {
		return out, c.err
	}
	desc := raw.NewLayerDesc()
	status, text := k.lib.CheckpointQueryLayer(k.handle(), b, &desc)
	if status == StatusOK {
		out.fromRaw(&desc)
	}
	return out, fail(op, status, text)
}

// BlockCount is the number of blocks that hold experts; 0 once the checkpoint is closed.
func (k *Checkpoint) BlockCount() int {
	if k.acquire("checkpoint_get_block_count") != nil {
		return 0
	}
	defer k.release()
	return int(k.lib.CheckpointGetBlockCount(k.handle()))
}

// Block is a block by its place in the order: layers by index, then draft blocks, then others. Its Prefix is set, so that it
// names this block in other calls.
func (k *Checkpoint) Block(index int) (Block, error) {
	const op = "checkpoint_get_block"
	var out Block
	if err := k.acquire(op); err != nil {
		return out, err
	}
	defer k.release()
	r := raw.NewBlock()
	status, text := k.lib.CheckpointGetBlock(k.handle(), int64(index), &r)
	if status == StatusOK {
		out = Block{Kind: r.Kind, Index: int(r.Index), Prefix: raw.Text(r.Prefix)}
	}
	return out, fail(op, status, text)
}

// ModelOptions say how a whole model is to be held. The zero value is all of it on one device.
type ModelOptions struct {
	// Layer has the options of every layer (TopK, dtypes, compute, flags); its sizes and partition are ignored. TopK 0 is that of
	// the config.json, else 16.
	Layer LayerDesc
	// TPSize is the number of tensor-parallel ranks; 0: 1.
	TPSize int
	// EPSize is the number of expert-parallel ranks; 0: 1.
	EPSize int
	// MaxTokens is the most tokens of one apply; 0: 4096.
	MaxTokens int
}

// QueryModel says what all blocks need on a device before a byte of weights is read; options may be nil.
func (k *Checkpoint) QueryModel(device *Context, options *ModelOptions) (ModelInfo, error) {
	const op = "checkpoint_query_model"
	var out ModelInfo
	if err := acquireAll(op, k.object, device.object); err != nil {
		return out, err
	}
	defer k.release()
	defer device.release()
	if options == nil {
		options = &ModelOptions{}
	}
	c := &converter{op: op}
	defer c.done()
	layer := options.Layer
	layer.Placement = nil
	args := raw.NewModelArgs()
	desc := layer.toRaw(c)
	c.pin(desc)
	args.Layer = uintptr(unsafe.Pointer(desc))
	args.TPSize = int32(c.number("tp_size", options.TPSize, 4))
	args.EPSize = int32(c.number("ep_size", options.EPSize, 4))
	args.MaxTokens = int64(options.MaxTokens)
	if c.err != nil {
		return out, c.err
	}
	info := raw.NewModelInfo()
	status, text := k.lib.CheckpointQueryModel(k.handle(), device.handle(), &args, &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}
