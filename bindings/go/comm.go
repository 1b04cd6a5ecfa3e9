// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"sync"
	"time"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// CommDesc says how a rank joins a group: which rank of how many, how they meet, and the sizes of what they exchange. Ranks
// are numbered part by part: rank r is tensor-parallel rank r % TPSize of expert-parallel part r / TPSize. All but Rank and the
// way to meet is the same on every rank; what differs is refused with the field's name on every rank.
//
// How ranks meet: with AllGather over the caller's own bootstrap (MPI, a store, sockets), with NCCLID or NCCLComm over NCCL, and
// with none of them as goroutines of one process that give the same Group. A group of one needs nothing.
type CommDesc struct {
	// Rank is 0..Size-1.
	Rank int
	// Size is the number of ranks, 1..64; 0: 1.
	Size int
	// TPSize is the number of tensor-parallel ranks of each expert-parallel part, a divisor of Size; 0: 1.
	TPSize int
	// Group is any number that the ranks of one group in this process share, and no other that forms at the same time.
	Group uint64
	// AllGather reads this rank's bytes and fills those of all ranks, in rank order. It is called on the goroutine that makes
	// the call: NewComm, Prepare, Reset, and with CommTransportCollective apply. The slices are the library's, to be forgotten
	// when it returns. What it fails with is the Cause of the call's error; a panic in it goes on in the call.
	AllGather func(mine, all []byte) error
	// NCCLID are the 128 bytes of NewNCCLID, which one rank makes and the caller carries to the others.
	NCCLID []byte
	// NCCLComm is an ncclComm_t of the caller's, split unless Flags have CommNoSplit; it outlives the Comm.
	NCCLComm uintptr
	// NCCLPath is the file of NCCL; "": that of DSV4MX_NCCL_PATH, what the process has loaded, or libnccl.so.2.
	NCCLPath string
	// Transport is what carries rows; 0: CommTransportPeer where every rank can write every other's window.
	Transport CommTransport
	// EPCombine says how expert-parallel results come home; 0: EPRouteExact.
	EPCombine EPCombine
	// TPReduce says how tensor-parallel partial sums are added; 0: TPRankOrder.
	TPReduce TPReduce
	// TPSlices of TPInvariant: a power of two from TPSize to 64; 0: 8.
	TPSlices int
	// SlotDtype is what routes travel as, and the slot dtype of layers with EPRouteExact; 0: BF16, or F32.
	SlotDtype Dtype
	// PartialDtype is what partial sums travel as; 0: F32, or BF16.
	PartialDtype Dtype
	// MaxTokens are the most tokens of one round on any rank, 1..131072: it sizes the windows.
	MaxTokens int
	// MaxHidden is the largest hidden of the layers that use it.
	MaxHidden int
	// MaxTopK is the largest top_k of the layers that use it.
	MaxTopK int
	// Timeout is the longest wait for another rank; 0: 10 seconds.
	Timeout time.Duration
	// Flags are CommNoSplit, CommForbidMulticast or 0.
	Flags CommFlag
}

// Comm is one rank of a group. NewComm, Prepare, an apply with ApplyArgs.Comm and Reset are collective: every rank makes them
// in the same order, at the same time. No call waits longer for another rank than the timeout; what goes wrong is an error with
// stage, round and rank on every rank. Calls of one Comm wait for each other; Abort, QueryFaults and Loads do not wait.
//
// Close leaves the group once no call uses it and every Call bound with it is closed: ranks that still wait for this one get
// ErrCommRankLost.
type Comm struct {
	owner
	context *object
	meeting *meeting // nil: it calls nothing back
	mutex   sync.Mutex
}

// meeting is an AllGather where C finds it, and what it failed with in the call that runs.
type meeting struct {
	hooks raw.Hooks
	err   error
}

// NewComm joins a group; collective. It ends with ctx too; options may be nil.
func NewComm(ctx context.Context, device *Context, desc CommDesc, options *CallOptions) (*Comm, error) {
	const op = "comm_create"
	if err := device.acquire(op); err != nil {
		return nil, err
	}
	defer device.release()
	if options == nil {
		options = &CallOptions{}
	}
	c := &converter{op: op}
	defer c.done()
	r := desc.toRaw(c)
	r.Control = c.control(ctx, options.Progress)
	if c.err != nil {
		return nil, c.err
	}
	comm := &Comm{context: device.object}
	var user uintptr
	if desc.AllGather != nil {
		comm.meeting = newMeeting(desc.AllGather, max(desc.Size, 1))
		user = raw.Register(&comm.meeting.hooks)
		r.AllGather, r.User = raw.CallbackFunctions().AllGather, user
	}
	lib := device.lib
	var handle raw.Comm
	status, text := lib.CommCreate(device.handle(), r, &handle)
	if status != StatusOK {
		raw.Unregister(user)
		err := comm.failed(op, status, text)
		device.finish()
		return nil, err
	}
	o := newObject(lib, "communicator", uintptr(handle), func() {
		lib.CommDestroy(handle)
		raw.Unregister(user)
	}, device.object)
	comm.owner = owner{o}
	return netted(comm, o), comm.failed(op, status, text)
}

func (s *CommDesc) toRaw(c *converter) *raw.CommDesc {
	r := raw.NewCommDesc()
	ways := 0
	for _, way := range []struct {
		given bool
		kind  CommKind
	}{{s.AllGather != nil, CommCallback}, {s.NCCLID != nil, CommNCCLID}, {s.NCCLComm != 0, CommNCCLBorrow}} {
		if way.given {
			ways++
			r.Kind = way.kind
		}
	}
	if ways > 1 {
		c.refuse(ErrInvalidArgument, "AllGather, NCCLID and NCCLComm: %d of them are set, expected one way to meet", ways)
	}
	if ways == 0 && s.Size > 1 {
		r.Kind = CommLocal
	}
	r.Rank = int32(c.number("rank", s.Rank, 4))
	r.Size = int32(c.number("size", s.Size, 4))
	r.TPSize = int32(c.number("tp_size", s.TPSize, 4))
	r.Transport, r.EPCombine, r.TPReduce = s.Transport, s.EPCombine, s.TPReduce
	r.TPSlices = int32(c.number("tp_slices", s.TPSlices, 4))
	r.SlotDtype, r.PartialDtype = s.SlotDtype, s.PartialDtype
	r.MaxTokens = int64(s.MaxTokens)
	r.MaxHidden = int32(c.number("max_hidden", s.MaxHidden, 4))
	r.MaxTopK = int32(c.number("max_top_k", s.MaxTopK, 4))
	r.TimeoutNs = s.Timeout.Nanoseconds()
	r.Flags, r.Group = uint32(s.Flags), s.Group
	if s.NCCLID != nil {
		if len(s.NCCLID) != 128 {
			c.refuse(ErrInvalidArgument, "NCCLID has %d bytes, expected 128", len(s.NCCLID))
		}
		id := unsafe.SliceData(s.NCCLID)
		c.pin(id)
		r.NCCLID = uintptr(unsafe.Pointer(id))
	}
	r.NCCLComm = s.NCCLComm
	if s.NCCLPath != "" {
		source := raw.NewNCCLSource()
		source.Path = c.text("nccl path", s.NCCLPath)
		c.pin(&source)
		r.NCCL = uintptr(unsafe.Pointer(&source))
	}
	return &r
}

func newMeeting(gather func(mine, all []byte) error, ranks int) *meeting {
	m := &meeting{}
	bytes := func(address, count uintptr) []byte {
		start := *(*unsafe.Pointer)(unsafe.Pointer(&address)) // memory of C
		return unsafe.Slice((*byte)(start), count)
	}
	m.hooks.AllGather = func(mine, all, count uintptr) bool {
		err := gather(bytes(mine, count), bytes(all, count*uintptr(ranks)))
		if err != nil && m.err == nil {
			m.err = err
		}
		return err == nil
	}
	return m
}

// failed is the error of a call, after the end of which a panic of the caller's function goes on.
func (x *Comm) failed(op string, status Status, text string) error {
	if x.meeting == nil {
		return fail(op, status, text)
	}
	cause := x.meeting.err
	x.meeting.err = nil
	if value := x.meeting.hooks.Panicked(); value != nil {
		panic(value)
	}
	if status == StatusOK {
		return nil
	}
	return &Error{Status: status, Op: op, Msg: text, Cause: cause}
}

// call makes one call at a time.
func (x *Comm) call(op string, run func() (Status, string)) error {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	status, text := run()
	return x.failed(op, status, text)
}

func (x *Comm) handle() raw.Comm { return raw.Comm(x.address) }

// Prepare makes a layer ready for apply with this group; collective. Ranks tell each other what they hold, and all are refused
// where the parts do not make one layer. To be called again after Layer.SetPlacement. It ends with ctx too; options may be nil.
func (x *Comm) Prepare(ctx context.Context, layer *Layer, options *CallOptions) error {
	const op = "comm_prepare"
	if err := acquireAll(op, x.object, layer.object); err != nil {
		return err
	}
	defer x.release()
	defer layer.release()
	return x.long(ctx, op, options, func(control *raw.Control) (Status, string) {
		layer.placing.RLock()
		defer layer.placing.RUnlock()
		return x.lib.CommPrepare(x.handle(), layer.handle(), control)
	})
}

// Reset begins anew after a fault, with the same ranks and prepared layers; collective: all ranks are alive and in no other
// call. With a rank lost make a new Comm instead. It ends with ctx too; options may be nil.
func (x *Comm) Reset(ctx context.Context, options *CallOptions) error {
	const op = "comm_reset"
	if err := x.acquire(op); err != nil {
		return err
	}
	defer x.release()
	return x.long(ctx, op, options, func(control *raw.Control) (Status, string) {
		return x.lib.CommReset(x.handle(), control)
	})
}

func (x *Comm) long(ctx context.Context, op string, options *CallOptions, run func(*raw.Control) (Status, string)) error {
	if options == nil {
		options = &CallOptions{}
	}
	c := &converter{op: op}
	defer c.done()
	address := c.control(ctx, options.Progress)
	if c.err != nil {
		return c.err
	}
	return x.call(op, func() (Status, string) {
		return run(*(**raw.Control)(unsafe.Pointer(&address))) // pinned by the converter
	})
}

// QueryWorkspace says how much workspace calls of up to maxTokens tokens of a prepared layer take: rows of other ranks need room
// too, also where this rank has no tokens.
func (x *Comm) QueryWorkspace(layer *Layer, maxTokens int) (WorkspaceInfo, error) {
	if err := x.acquire("layer_query_workspace"); err != nil {
		return WorkspaceInfo{}, err
	}
	defer x.release()
	return layer.queryWorkspace(maxTokens, x.handle())
}

// NewWorkspace allocates what calls of up to maxTokens tokens of a prepared layer need for full speed.
func (x *Comm) NewWorkspace(layer *Layer, maxTokens int) (*Workspace, error) {
	info, err := x.QueryWorkspace(layer, maxTokens)
	if err != nil {
		return nil, err
	}
	return newWorkspace(layer, info)
}

// Query says what the communicator is.
func (x *Comm) Query() (CommInfo, error) {
	const op = "comm_query"
	var out CommInfo
	if err := x.acquire(op); err != nil {
		return out, err
	}
	defer x.release()
	info := raw.NewCommInfo()
	status, text := x.lib.CommQuery(x.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// QueryFaults is the fault that ended the group's work, if any; it waits for nothing.
func (x *Comm) QueryFaults() (CommFaultInfo, error) {
	const op = "comm_query_faults"
	var out CommFaultInfo
	if err := x.acquire(op); err != nil {
		return out, err
	}
	defer x.release()
	info := raw.NewCommFaultInfo()
	status, text := x.lib.CommQueryFaults(x.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// Abort ends the group's work from any goroutine, also while another one is inside a call: every rank's apply gives
// ErrCommRankLost with this rank.
func (x *Comm) Abort() error {
	const op = "comm_abort"
	if err := x.acquire(op); err != nil {
		return err
	}
	defer x.release()
	status, text := x.lib.CommAbort(x.handle())
	return fail(op, status, text)
}

// Loads are the pairs that each local expert of a prepared layer computed here, for all ranks, since it was prepared.
// ErrInvalidState: not prepared, or a group of one, which counts nothing.
func (x *Comm) Loads(layer *Layer) ([]int64, error) {
	const op = "comm_get_loads"
	if err := acquireAll(op, x.object, layer.object); err != nil {
		return nil, err
	}
	defer x.release()
	defer layer.release()
	pairs := make([]int64, layer.experts)
	status, text := x.lib.CommGetLoads(x.handle(), layer.handle(), unsafe.SliceData(pairs), int32(layer.experts))
	if status != StatusOK {
		return nil, fail(op, status, text)
	}
	return pairs, nil
}

// QueryNCCL loads NCCL, 2.19 or later, and says which; it needs no GPU. path is as CommDesc.NCCLPath.
func QueryNCCL(path string) (NCCLInfo, error) {
	var out NCCLInfo
	info := raw.NewNCCLInfo()
	err := withNCCL("nccl_query", path, func(lib *raw.Library, source *raw.NCCLSource) (Status, string) {
		return lib.NCCLQuery(source, &info)
	})
	if err == nil {
		out.fromRaw(&info)
	}
	return out, err
}

// NewNCCLID is a unique id, for one rank to make and the caller to carry to the others. path is as CommDesc.NCCLPath.
func NewNCCLID(path string) ([]byte, error) {
	id := make([]byte, 128)
	c := converter{}
	defer c.done()
	c.pin(&id[0])
	err := withNCCL("nccl_get_unique_id", path, func(lib *raw.Library, source *raw.NCCLSource) (Status, string) {
		return lib.NCCLGetUniqueID(source, uintptr(unsafe.Pointer(&id[0])))
	})
	if err != nil {
		return nil, err
	}
	return id, nil
}

func withNCCL(op, path string, call func(*raw.Library, *raw.NCCLSource) (Status, string)) error {
	lib, err := library()
	if err != nil {
		return err
	}
	c := &converter{op: op}
	defer c.done()
	source := raw.NewNCCLSource()
	source.Path = c.text("path", path)
	if c.err != nil {
		return c.err
	}
	status, text := call(lib, &source)
	return fail(op, status, text)
}
