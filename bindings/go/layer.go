// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"strings"
	"sync"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Layer is a description of one MoE layer, of which only the placement can change. Safe for many goroutines: a change waits
// for calls that run.
type Layer struct {
	owner
	context  *object
	device   Device
	hidden   int
	channels int // held here
	experts  int
	topK     int
	dtypes   applyDtypes
	moves    bool         // has a placement, which may change
	placing  sync.RWMutex // held by what goes by a placement that may change
}

// applyDtypes are the element types of apply's tensors.
type applyDtypes struct{ x, ids, weights, out Dtype }

// NewLayer checks the whole description, before a byte of weights is read.
func NewLayer(context *Context, desc LayerDesc) (*Layer, error) {
	const op = "layer_create"
	if err := context.acquire(op); err != nil {
		return nil, err
	}
	defer context.release()
	c := &converter{op: op}
	defer c.done()
	r := desc.toRaw(c)
	if desc.Placement != nil && len(desc.Placement) != desc.Experts {
		c.refuse(ErrInvalidArgument, "placement has %d entries, expected one for each of the %d experts", len(desc.Placement), desc.Experts)
	}
	if c.err != nil {
		return nil, c.err
	}
	lib := context.lib
	var handle raw.Layer
	status, text := lib.LayerCreate(context.handle(), r, &handle)
	if status != StatusOK {
		context.finish()
		return nil, fail(op, status, text)
	}
	o := newObject(lib, "layer", uintptr(handle), func() { lib.LayerDestroy(handle) }, context.object)
	l := &Layer{owner: owner{o}, context: context.object, hidden: desc.Hidden, experts: desc.Experts, topK: desc.TopK}
	l.dtypes = applyDtypes{or(desc.XDtype, DtypeBF16), or(desc.IDsDtype, DtypeI32), or(desc.RouterWeightDtype, DtypeF32),
		or(desc.OutDtype, DtypeBF16)}
	l.moves = desc.Placement != nil
	netted(l, o)
	o.finish()
	info, err := l.Query()
	if err != nil {
		l.Close()
		return nil, err
	}
	l.device, l.channels = info.Device, info.IntermediateCount
	return l, nil
}

func or(dtype, otherwise Dtype) Dtype {
	if dtype == DtypeDefault {
		return otherwise
	}
	return dtype
}

func (l *Layer) handle() raw.Layer { return raw.Layer(l.address) }

// Query says what will run and how much memory it takes.
func (l *Layer) Query() (LayerInfo, error) {
	const op = "layer_query"
	var out LayerInfo
	if err := l.acquire(op); err != nil {
		return out, err
	}
	defer l.release()
	info := raw.NewLayerInfo()
	status, text := l.lib.LayerQuery(l.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// QueryWorkspace says how much workspace calls of up to maxTokens tokens take.
func (l *Layer) QueryWorkspace(maxTokens int) (WorkspaceInfo, error) {
	return l.queryWorkspace(maxTokens, 0)
}

// queryWorkspace is QueryWorkspace for calls of a group that the caller holds; 0: none.
func (l *Layer) queryWorkspace(maxTokens int, comm raw.Comm) (WorkspaceInfo, error) {
	const op = "layer_query_workspace"
	var out WorkspaceInfo
	if err := l.acquire(op); err != nil {
		return out, err
	}
	defer l.release()
	args, info := raw.NewWorkspaceArgs(), raw.NewWorkspaceInfo()
	args.Comm = comm
	status, text := l.lib.LayerQueryWorkspace(l.handle(), int64(maxTokens), &args, &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// QueryFaults polls the faults that applies met while they ran, without waiting for any.
func (l *Layer) QueryFaults() (FaultInfo, error) {
	const op = "layer_query_faults"
	var out FaultInfo
	if err := l.acquire(op); err != nil {
		return out, err
	}
	defer l.release()
	info := raw.NewFaultInfo()
	status, text := l.lib.LayerQueryFaults(l.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// QueryPlan is the plan for a number of tokens as one line for people. weights may be nil: then the plan assumes that
// they allow every path.
func (l *Layer) QueryPlan(weights *Weights, tokens int) (string, error) {
	const op = "layer_query_plan"
	if err := l.acquire(op); err != nil {
		return "", err
	}
	defer l.release()
	l.placing.RLock()
	defer l.placing.RUnlock()
	var handle raw.Weights
	if weights != nil {
		if err := weights.acquire(op); err != nil {
			return "", err
		}
		defer weights.release()
		defer weights.reading()()
		handle = weights.handle()
	}
	for size := 512; ; size *= 4 {
		line := make([]byte, size)
		status, text := l.lib.LayerQueryPlan(l.handle(), handle, int64(tokens), &line[0], uintptr(size))
		if status == ErrBufferTooSmall && size < 1<<20 {
			continue
		}
		out, _, _ := strings.Cut(string(line), "\x00")
		return out, fail(op, status, text)
	}
}

// SetPlacement changes which experts the slots hold, from this point of the stream on: local expert s is placement[s] of the
// layer. Applies enqueued before on the stream go by the old placement, those after, replays of captured graphs included, by
// the new one, and so does what is set or loaded from now on. With Weights.CopyExperts on the same stream this moves experts
// under load. The layer was made with a placement and without LayerPhysicalIDs.
//
// ErrInvalidArgument (an entry, their number), ErrInvalidState (no placement, physical ids, a captured stream),
// ErrOutOfMemory, ErrCUDAError.
func (l *Layer) SetPlacement(placement []int32, stream Stream) error {
	const op = "layer_set_placement"
	if err := l.acquire(op); err != nil {
		return err
	}
	defer l.release()
	if len(placement) != l.experts {
		return refuse(op, ErrInvalidArgument, "placement has %d entries, expected one for each of the %d experts", len(placement), l.experts)
	}
	l.placing.Lock()
	defer l.placing.Unlock()
	status, text := l.lib.LayerSetPlacement(l.handle(), unsafe.SliceData(placement), stream)
	l.finish()
	return fail(op, status, text)
}
