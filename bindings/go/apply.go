// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"runtime"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// ApplyArgs are the arguments of one apply. Tensors are memory of the context's device: slices of Go (Of) on the CPU,
// buffers and device memory on a GPU. Rows may have a stride.
type ApplyArgs struct {
	// X is [tokens, hidden] of the layer's XDtype, 16-byte aligned.
	X Tensor
	// TopKIDs is [tokens, top_k] of the layer's IDsDtype; ids that are not held here are skipped.
	TopKIDs Tensor
	// TopKWeights is [tokens, top_k] of the layer's RouterWeightDtype.
	TopKWeights Tensor
	// Out is [tokens, hidden] of the layer's OutDtype, 16-byte aligned; every element is written. It overlaps no other
	// argument.
	Out Tensor
	// Workspace is scratch memory, of the layer's context. nil: on the CPU one is made for the call (with Bind, for the life
	// of the Call); a GPU needs one that stays until the stream has passed.
	Workspace *Workspace
	// TokensDevice is one int32 in device memory: tokens to process, clamped to 0..tokens; nil: all. It is read when the
	// kernels run.
	TokensDevice *Tensor
	// ExpertCounts is [experts] of int64 in device memory, to which each call adds what its experts computed; nil: none.
	ExpertCounts *Tensor
	// Multiprocessors that a GPU may use; 0: all.
	Multiprocessors int
	// Flags are ApplyAccumulate or 0.
	Flags ApplyFlag
	// Comm makes the call one of a group: collective, with any number of tokens on each rank, 0 included; nil: this rank's
	// part alone. The layer is prepared for it (Comm.Prepare), the workspace is one of Comm.NewWorkspace.
	Comm *Comm
	// CommTokens are the most tokens of this call on any rank, the same number on every rank; 0: the group's MaxTokens.
	CommTokens int
	// CommTag is any number that all ranks give alike, e.g. the layer's index, by which ranks that are out of step find out.
	CommTag uint32
}

// Call is an apply with its arguments bound: checked, pinned and laid out once. Apply on it is the cheapest call there is.
// Safe for many goroutines, which then wait for each other; Calls that run side by side have workspaces of their own.
type Call struct {
	*bound
	cleanup runtime.Cleanup
}

// bound is the part that the collector's net may hold.
type bound struct {
	apply     *raw.BoundApply
	args      *raw.ApplyArgs
	rows      int
	workspace *Workspace
	own       bool // the workspace was made for it
	layer     *Layer
	weights   *Weights
	comm      *Comm // nil: none
	held      []*object
	converter converter
	closed    bool // under the workspace's mutex
}

// Bind checks and pins the arguments of apply for any number of calls. The Call keeps all that it uses alive until Close.
func (l *Layer) Bind(weights *Weights, args *ApplyArgs) (*Call, error) {
	b, err := l.bind(weights, args)
	if err != nil {
		return nil, err
	}
	call := &Call{bound: b}
	call.cleanup = runtime.AddCleanup(call, (*bound).unbind, b)
	return call, nil
}

const opApply = "layer_apply"

func (l *Layer) bind(weights *Weights, args *ApplyArgs) (*bound, error) {
	workspace, err := l.workspaceFor(args)
	if err != nil {
		return nil, err
	}
	b, err := l.bindIn(workspace, weights, args)
	if err != nil && args.Workspace == nil {
		workspace.Close()
	}
	return b, err
}

// workspaceFor is the caller's workspace, or on the CPU a new one where there is none.
func (l *Layer) workspaceFor(args *ApplyArgs) (*Workspace, error) {
	switch rows := args.X.shape[0]; {
	case args.Workspace != nil:
		return args.Workspace, nil
	case l.device != DeviceCPU:
		return nil, refuse(opApply, ErrInvalidArgument, "workspace is nil, expected one of NewWorkspace")
	case args.Comm != nil:
		return args.Comm.NewWorkspace(l, rows)
	default:
		return NewWorkspace(l, rows)
	}
}

func (l *Layer) bindIn(workspace *Workspace, weights *Weights, args *ApplyArgs) (*bound, error) {
	b := &bound{workspace: workspace, own: args.Workspace == nil, layer: l, weights: weights, comm: args.Comm}
	c := &b.converter
	c.op = opApply
	used := []*object{l.object, weights.object, workspace.buffer.object}
	if workspace.buffer.context != l.context {
		return nil, refuse(opApply, ErrInvalidArgument, "the workspace is of another context")
	}
	if !weights.prepared.Load() {
		return nil, refuse(opApply, ErrInvalidState, "the weights are not prepared")
	}
	r := raw.NewApplyArgs()
	b.args = &r
	rows := args.X.shape[0]
	matrix := func(name string, t *Tensor, dtype Dtype, columns int) (uintptr, int64) {
		return l.argument(c, &used, name, t, dtype, rows, columns)
	}
	r.X, r.XStride = matrix("x", &args.X, l.dtypes.x, l.hidden)
	r.TopkIDs, r.TopkIDsStride = matrix("topk_ids", &args.TopKIDs, l.dtypes.ids, l.topK)
	r.TopkWeights, r.TopkWeightsStride = matrix("topk_weights", &args.TopKWeights, l.dtypes.weights, l.topK)
	r.Out, r.OutStride = matrix("out", &args.Out, l.dtypes.out, l.hidden)
	if args.TokensDevice != nil {
		r.TokensDevice, _ = l.argument(c, &used, "tokens_device", args.TokensDevice, DtypeI32, 1, 0)
	}
	if args.ExpertCounts != nil {
		r.ExpertCounts, _ = l.argument(c, &used, "expert_counts", args.ExpertCounts, DtypeI64, l.experts, 0)
	}
	b.rows, r.Tokens = rows, int64(rows)
	r.Workspace, r.WorkspaceBytes = workspace.buffer.start, uintptr(workspace.buffer.bytes)
	r.Multiprocessors = int32(c.number("multiprocessors", args.Multiprocessors, 4))
	r.Flags = uint32(args.Flags)
	if args.Comm != nil {
		used = append(used, args.Comm.object)
		r.Comm, r.CommTokens, r.CommTag = args.Comm.handle(), int64(args.CommTokens), args.CommTag
	}
	if c.err == nil {
		c.err = acquireAll(opApply, used...)
	}
	if c.err != nil {
		c.done()
		return nil, c.err
	}
	c.pin(b.args)
	b.apply = l.lib.BindLayerApply(l.handle(), weights.handle(), b.args)
	b.held = used
	return b, nil
}

// argument checks one tensor of apply, [rows, columns] or, with columns 0, [rows]; it gives address and row stride.
func (l *Layer) argument(c *converter, used *[]*object, name string, t *Tensor, dtype Dtype, rows, columns int) (uintptr, int64) {
	want := []int{rows, columns}
	if columns == 0 {
		want = want[:1]
	}
	if t.err != "" {
		c.refuse(ErrInvalidArgument, "%s: %s", name, t.err)
		return 0, 0
	}
	if t.dtype != dtype {
		c.refuse(ErrInvalidArgument, "%s is %s, expected %s", name, t.dtype, dtype)
	}
	if t.rank != len(want) || t.shape[0] != rows || columns != 0 && t.shape[1] != columns {
		c.refuse(ErrInvalidArgument, "%s is %v, expected %v", name, t.Shape(), want)
	}
	stride := 0
	if t.stride != [4]int{} {
		if stride = t.stride[0]; t.stride[len(want)-1] != 1 || len(want) == 2 && stride < columns {
			c.refuse(ErrInvalidArgument, "%s has strides %v, expected rows of %d neighbours", name, t.stride[:t.rank], columns)
		}
	}
	if wrong := t.check(); wrong != "" {
		c.refuse(ErrInvalidArgument, "%s: %s", name, wrong)
	}
	if l.device == DeviceCUDA && t.memory != MemoryDevice && t.bytes != 0 {
		c.refuse(ErrInvalidArgument, "%s is a slice of Go and the layer runs on CUDA, expected a Buffer or device memory", name)
	}
	if t.holder != nil {
		*used = append(*used, t.holder)
	}
	return t.pointer(c), int64(stride)
}

// Apply enqueues the layer for all bound tokens: out = the layer applied to x. On the CPU it is done when the call
// returns; on a GPU it runs on the stream and cannot be cancelled, which is why it takes no context.Context. What the
// tensors hold is read then, not when they were bound.
func (b *Call) Apply(stream Stream) error {
	if b.comm != nil {
		return b.applyInGroup(b.rows, stream)
	}
	b.workspace.mutex.Lock()
	if b.closed {
		b.workspace.mutex.Unlock()
		return refuse(opApply, ErrInvalidState, "the call is closed")
	}
	status, text := b.run(stream)
	b.workspace.mutex.Unlock()
	if status == StatusOK {
		return nil
	}
	return fail(opApply, status, text)
}

// ApplyTokens enqueues the layer for the first tokens of those that were bound.
func (b *Call) ApplyTokens(tokens int, stream Stream) error {
	if tokens < 0 || tokens > b.rows {
		return refuse(opApply, ErrInvalidArgument, "tokens is %d, expected 0..%d, which were bound", tokens, b.rows)
	}
	if b.comm != nil {
		return b.applyInGroup(tokens, stream)
	}
	b.workspace.mutex.Lock()
	defer b.workspace.mutex.Unlock()
	if b.closed {
		return refuse(opApply, ErrInvalidState, "the call is closed")
	}
	b.args.Tokens = int64(tokens)
	status, text := b.run(stream)
	b.args.Tokens = int64(b.rows)
	return fail(opApply, status, text)
}

// applyInGroup is a call in which a function of the caller's may run, and panic.
func (b *bound) applyInGroup(tokens int, stream Stream) error {
	b.workspace.mutex.Lock()
	defer b.workspace.mutex.Unlock()
	if b.closed {
		return refuse(opApply, ErrInvalidState, "the call is closed")
	}
	b.args.Tokens = int64(tokens)
	defer func() { b.args.Tokens = int64(b.rows) }()
	return b.comm.call(opApply, func() (Status, string) { return b.run(stream) })
}

// run makes the call beside others that read the same objects, and beside none that changes them.
func (b *bound) run(stream Stream) (Status, string) {
	moves := b.layer.moves
	if moves {
		b.layer.placing.RLock()
	}
	b.weights.mutex.RLock()
	status, text := b.apply.Apply(stream)
	b.weights.mutex.RUnlock()
	if moves {
		b.layer.placing.RUnlock()
	}
	return status, text
}

// Close lets go of the arguments; stream work that uses them has to be finished. It may be called again; the error is
// always nil.
func (b *Call) Close() error {
	b.cleanup.Stop()
	b.unbind()
	return nil
}

func (b *bound) unbind() {
	b.workspace.mutex.Lock()
	defer b.workspace.mutex.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	b.converter.done()
	for _, o := range b.held {
		o.release()
	}
	if b.own {
		b.workspace.Close()
	}
}

// Apply is Bind, one Apply and Close. On a GPU the memory of all arguments has to stay until the stream has passed.
func (l *Layer) Apply(weights *Weights, args *ApplyArgs, stream Stream) error {
	call, err := l.Bind(weights, args)
	if err != nil {
		return err
	}
	defer call.Close()
	return call.Apply(stream)
}
