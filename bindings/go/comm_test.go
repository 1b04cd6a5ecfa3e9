// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

const (
	commHidden, commIntermediate, commExperts, commTopK, commTokens = 64, 64, 8, 2, 24
)

// lastGroup gives each group of this process a number of its own.
var lastGroup atomic.Uint64

// commRank is one rank: its part of the layer, an equal share of the experts.
type commRank struct {
	context *Context
	layer   *Layer
	weights *Weights
	comm    *Comm
	rank    int
	size    int
}

func commLayerDesc(rank, size int) LayerDesc {
	held := commExperts / size
	return LayerDesc{Hidden: commHidden, Intermediate: commIntermediate, Experts: held, ExpertsGlobal: commExperts,
		ExpertFirst: rank * held, TopK: commTopK, W13Order: W13OrderGateUp, SlotDtype: DtypeBF16, Flags: LayerBatchInvariant}
}

// newCommRankOn makes a part; what fails ends the test on its own goroutine.
func newCommRankOn(options *ContextOptions, rank, size int) (*commRank, error) {
	x, err := NewContext(options)
	if err != nil {
		return nil, err
	}
	layer, err := NewLayer(x, commLayerDesc(rank, size))
	if err != nil {
		return nil, err
	}
	weights, err := NewWeights(layer, nil)
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(3, 3))
	held := commExperts / size
	for _, m := range []struct {
		name    string
		rows, k int
	}{{"w13", 2 * commIntermediate, commHidden}, {"w2", commHidden, commIntermediate}} {
		bytes := m.rows * m.k / 2
		codes := make([]byte, commExperts*bytes)
		for i := range codes {
			codes[i] = byte(r.Uint32())
		}
		scales := slices.Repeat([]byte{120}, held*m.rows*m.k/32)
		err = errors.Join(err,
			weights.Set(context.Background(), m.name+"_weight", -1, Of(codes[rank*held*bytes:][:held*bytes], held, m.rows, m.k/2), nil),
			weights.Set(context.Background(), m.name+"_weight_scale", -1, Of(scales, held, m.rows, m.k/32), nil))
	}
	return &commRank{x, layer, weights, nil, rank, size}, errors.Join(err, weights.Prepare(context.Background(), nil))
}

func (r *commRank) close() {
	if r.comm != nil {
		r.comm.Close()
	}
	r.weights.Close()
	r.layer.Close()
	r.context.Close()
}

// join makes the communicator and prepares the layer.
func (r *commRank) join(desc CommDesc) error {
	comm, err := NewComm(context.Background(), r.context, desc, nil)
	if err != nil {
		return err
	}
	r.comm = comm
	return comm.Prepare(context.Background(), r.layer, nil)
}

func commSizes(rank, size int, group uint64) CommDesc {
	return CommDesc{Rank: rank, Size: size, Group: group, MaxTokens: commTokens, MaxHidden: commHidden, MaxTopK: commTopK}
}

type commInputs struct {
	x       []BF16
	ids     []int32
	weights []float32
}

func newCommInputs() commInputs {
	r := rand.New(rand.NewPCG(4, 4))
	var in commInputs
	for range commTokens * commHidden {
		in.x = append(in.x, NewBF16(float32(r.NormFloat64())))
	}
	for t := range commTokens {
		in.ids = append(in.ids, int32(t*3%commExperts), int32((t*5+1)%commExperts))
		in.weights = append(in.weights, r.Float32(), r.Float32())
	}
	return in
}

// apply gives the rows first..end of the whole layer.
func (r *commRank) apply(first, end int, tag uint32) ([]BF16, error) {
	in, rows := newCommInputs(), end-first
	var workspace *Workspace
	var err error
	if r.comm != nil {
		workspace, err = r.comm.NewWorkspace(r.layer, rows)
	} else {
		workspace, err = NewWorkspace(r.layer, rows)
	}
	if err != nil {
		return nil, err
	}
	defer workspace.Close()
	y := make([]BF16, rows*commHidden)
	args := &ApplyArgs{
		X: Of(in.x[first*commHidden:end*commHidden], rows, commHidden), TopKIDs: Of(in.ids[first*commTopK:end*commTopK], rows, commTopK),
		TopKWeights: Of(in.weights[first*commTopK:end*commTopK], rows, commTopK), Out: Of(y, rows, commHidden),
		Workspace: workspace, Comm: r.comm, CommTokens: commTokens, CommTag: tag,
	}
	if r.layer.device == DeviceCPU {
		if r.rank%2 == 1 {
			args.Workspace = nil // one of the communicator's is made for the call
		}
		return y, r.layer.Apply(r.weights, args, StreamDefault)
	}
	out, err := r.onDevice(args)
	if err == nil {
		err = errors.Join(r.layer.Apply(r.weights, args, StreamDefault), r.context.Synchronize(StreamDefault))
	}
	return y, errors.Join(err, CopyOut(out, y, StreamDefault))
}

// onDevice moves the tensors to the device; the collector closes the buffers.
func (r *commRank) onDevice(args *ApplyArgs) (out *Buffer, err error) {
	for _, t := range []*Tensor{&args.X, &args.TopKIDs, &args.TopKWeights, &args.Out} {
		if out, err = Upload(r.context, unsafe.Slice((*byte)(t.slice), t.bytes), StreamDefault); err != nil {
			return nil, err
		}
		*t = out.Tensor(t.dtype, t.Shape()...)
	}
	return out, nil
}

func (r *commRank) share() (int, int) {
	return commTokens * r.rank / r.size, commTokens * (r.rank + 1) / r.size
}

// onRanks runs body on a goroutine for each rank; an error or a panic of one fails the test.
func onRanks(t *testing.T, size int, body func(r *commRank) error) {
	t.Helper()
	onRanksOf(t, DeviceCPU, size, body)
}

// onRanksOf has the ranks take the devices of a kind in turn.
func onRanksOf(t *testing.T, device Device, size int, body func(r *commRank) error) {
	t.Helper()
	devices := must[int](t)(DeviceCount(device))
	var wait sync.WaitGroup
	errs := make([]error, size)
	for rank := range size {
		wait.Go(func() {
			r, err := newCommRankOn(&ContextOptions{Device: device, Ordinal: rank % devices, Threads: 1}, rank, size)
			if err == nil {
				err = body(r)
				r.close()
			}
			errs[rank] = err
		})
	}
	wait.Wait()
	for rank, err := range errs {
		if err != nil {
			t.Errorf("rank %d of %d: %v", rank, size, err)
		}
	}
}

func wholeLayer(t *testing.T) []BF16 {
	t.Helper()
	return wholeLayerOn(t, DeviceCPU)
}

func wholeLayerOn(t *testing.T, device Device) []BF16 {
	t.Helper()
	r := must[*commRank](t)(newCommRankOn(&ContextOptions{Device: device, Threads: 1}, 0, 1))
	defer r.close()
	return must[[]BF16](t)(r.apply(0, commTokens, 0))
}

// status is nil where err has that status and its text says all of it.
func wantStatus(err error, status Status, words ...string) error {
	if !errors.Is(err, status) {
		return fmt.Errorf("got %v, wanted %s", err, status)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			return fmt.Errorf("got %v, wanted one with %q", err, word)
		}
	}
	return nil
}

// TestCommGivesTheBitsOfOneRank runs on the CPU and, where there is a GPU, on all of them; several ranks may share one.
func TestCommGivesTheBitsOfOneRank(t *testing.T) {
	needLibrary(t)
	for _, device := range testDevices(t) {
		t.Run(device.String(), func(t *testing.T) { theBitsOfOneRank(t, device) })
	}
}

func theBitsOfOneRank(t *testing.T, device Device) {
	want := wholeLayerOn(t, device)
	for _, size := range []int{1, 2, 4} {
		got, group := make([]BF16, len(want)), lastGroup.Add(1)
		onRanksOf(t, device, size, func(r *commRank) error {
			if err := r.join(commSizes(r.rank, size, group)); err != nil {
				return err
			}
			first, end := r.share()
			y, err := r.apply(first, end, 7)
			copy(got[first*commHidden:], y)
			info, failed := r.comm.Query()
			if failed != nil || info.Rank != r.rank || info.Size != size || info.EPRank != r.rank || info.Reason == "" {
				return fmt.Errorf("info is %+v, %v", info, failed)
			}
			loads, failed := r.comm.Loads(r.layer)
			if size == 1 {
				return errors.Join(err, wantStatus(failed, ErrInvalidState))
			}
			if len(loads) != commExperts/size {
				return fmt.Errorf("loads are %v, %v", loads, failed)
			}
			return errors.Join(err, failed)
		})
		if !slices.Equal(got, want) {
			t.Errorf("%d ranks: other bits", size)
		}
	}
}

// TestCommFaultOnGPUs: a rank that stays away; the others, which one device makes wait on the host, all say so.
func TestCommFaultOnGPUs(t *testing.T) {
	needLibrary(t)
	if !slices.Contains(testDevices(t), DeviceCUDA) {
		t.Skip("needs a CUDA device")
	}
	group := lastGroup.Add(1)
	var wait sync.WaitGroup
	errs := make([]error, 4)
	var joined sync.WaitGroup
	joined.Add(len(errs))
	for rank := range errs {
		wait.Go(func() {
			arrived := sync.OnceFunc(joined.Done)
			defer arrived()
			r, err := newCommRankOn(&ContextOptions{Device: DeviceCUDA}, rank, len(errs)) // all on the first device
			if err == nil {
				defer r.close()
				desc := commSizes(rank, len(errs), group)
				desc.Timeout = 400 * time.Millisecond
				err = r.join(desc)
			}
			arrived()
			joined.Wait()
			if err != nil || rank == 3 {
				time.Sleep(time.Second) // nobody leaves while others wait
				errs[rank] = err
				return
			}
			time.Sleep(time.Duration(rank) * 60 * time.Millisecond)
			first, end := r.share()
			_, err = r.apply(first, end, 0)
			errs[rank] = wantStatus(err, ErrCommTimeout, "rank 3 did not come", "0.400 s")
		})
	}
	wait.Wait()
	check(t, errors.Join(errs...))
}

func TestCommRankWithoutTokens(t *testing.T) {
	needLibrary(t)
	want, group := wholeLayer(t), lastGroup.Add(1)
	onRanks(t, 2, func(r *commRank) error {
		if err := r.join(commSizes(r.rank, 2, group)); err != nil {
			return err
		}
		first, end := 0, commTokens
		if r.rank == 1 {
			first = end
		}
		y, err := r.apply(first, end, 0)
		if r.rank == 0 && !slices.Equal(y, want) {
			return errors.Join(err, errors.New("other bits"))
		}
		return err
	})
}

func TestCommFaultsOfCreate(t *testing.T) {
	needLibrary(t)
	x := cpu(t)
	t.Run("a rank that does not come", func(t *testing.T) {
		desc := commSizes(0, 2, lastGroup.Add(1))
		desc.Timeout = 100 * time.Millisecond
		_, err := NewComm(context.Background(), x, desc, nil)
		check(t, wantStatus(err, ErrCommTimeout, "comm_create", "rank 1 of 2 did not join"))
	})
	t.Run("cancelled while it waits", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		joining := false
		options := &CallOptions{Progress: func(stage Stage, done, total int64) bool {
			joining = joining || stage == StageJoin
			cancel()
			return true
		}}
		start := time.Now()
		_, err := NewComm(ctx, x, commSizes(0, 2, lastGroup.Add(1)), options)
		check(t, wantStatus(err, ErrCancelled))
		if !joining || !errors.Is(err, context.Canceled) || time.Since(start) > 5*time.Second {
			t.Errorf("joining %v, %v after %v", joining, err, time.Since(start))
		}
	})
	changes := []struct {
		what   string
		change func(d *CommDesc)
	}{
		{"max_tokens", func(d *CommDesc) { d.MaxTokens += d.Rank }},
		{"timeout", func(d *CommDesc) { d.Timeout += time.Duration(d.Rank) * time.Second }},
		{"flags", func(d *CommDesc) { d.Flags = CommFlag(1 + d.Rank) }},
		{"tp_size", func(d *CommDesc) { d.TPSize = 3 }},
		{"tp_slices", func(d *CommDesc) { d.TPReduce, d.TPSlices = TPInvariant, 3 }},
		{"slot_dtype", func(d *CommDesc) { d.SlotDtype = DtypeI64 }},
		{"partial_dtype", func(d *CommDesc) { d.PartialDtype = DtypeI64 }},
		{"ep_combine", func(d *CommDesc) { d.EPCombine = 9 }},
		{"transport", func(d *CommDesc) { d.Transport = 9 }},
		{"max_hidden", func(d *CommDesc) { d.MaxHidden = -1 }},
		{"max_top_k", func(d *CommDesc) { d.MaxTopK = 17 }},
	}
	for _, c := range changes {
		t.Run(c.what, func(t *testing.T) {
			group := lastGroup.Add(1)
			onRanks(t, 2, func(r *commRank) error {
				desc := commSizes(r.rank, 2, group)
				desc.Timeout = 300 * time.Millisecond
				c.change(&desc)
				err := r.join(desc)
				if errors.Is(err, ErrCommTimeout) {
					return err
				}
				var failure *Error
				if !errors.As(err, &failure) || !strings.Contains(failure.Msg, c.what) {
					return fmt.Errorf("got %v, wanted one with %q", err, c.what)
				}
				return nil
			})
		})
	}
	t.Run("before the library is asked", func(t *testing.T) {
		refused := func(desc CommDesc, word string) {
			_, err := NewComm(context.Background(), x, desc, nil)
			check(t, wantStatus(err, ErrInvalidArgument, word))
		}
		refused(CommDesc{NCCLID: make([]byte, 128), NCCLComm: 1}, "expected one way to meet")
		refused(CommDesc{NCCLID: make([]byte, 12)}, "NCCLID has 12 bytes, expected 128")
		refused(CommDesc{Rank: 1 << 40}, "rank is 1099511627776")
	})
}

func TestCommRefusesWhatALayerCannotKeep(t *testing.T) {
	needLibrary(t)
	group := lastGroup.Add(1)
	onRanks(t, 2, func(r *commRank) error {
		desc := commLayerDesc(r.rank, 2)
		desc.Flags = 0
		plain, err := NewLayer(r.context, desc)
		if err != nil {
			return err
		}
		defer plain.Close()
		if r.comm, err = NewComm(context.Background(), r.context, commSizes(r.rank, 2, group), nil); err != nil {
			return err
		}
		return wantStatus(r.comm.Prepare(context.Background(), plain, nil), ErrUnsupported, "comm_prepare", "BATCH_INVARIANT")
	})
}

// TestCommFaultsOfApply makes each fault on rank 1; rank 0 finds it, and both begin anew where both live.
func TestCommFaultsOfApply(t *testing.T) {
	needLibrary(t)
	for _, c := range []struct {
		name   string
		status Status
		fault  func(r *commRank) error
		alive  bool
	}{
		{"another tag", ErrCommMismatch, func(r *commRank) error {
			_, err := r.apply(12, 24, 99)
			return wantStatus(err, ErrCommMismatch)
		}, true},
		{"a call left out", ErrCommTimeout, func(r *commRank) error { return nil }, true},
		{"closed", ErrCommRankLost, func(r *commRank) error { return r.comm.Close() }, false},
		{"aborted", ErrCommRankLost, func(r *commRank) error { return r.comm.Abort() }, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			group, ready, seen := lastGroup.Add(1), make(chan struct{}), make(chan struct{})
			await := func(done chan struct{}) {
				select {
				case <-done:
				case <-time.After(10 * time.Second): // the other one failed
				}
			}
			onRanks(t, 2, func(r *commRank) error {
				desc := commSizes(r.rank, 2, group)
				desc.Timeout = 400 * time.Millisecond
				if err := r.join(desc); err != nil {
					return err
				}
				first, end := r.share()
				_, err := r.apply(first, end, 1)
				if err != nil {
					return err
				}
				if r.rank == 1 {
					await(ready) // the other one may still be in the call that is to go well
					err = c.fault(r)
					await(seen)
				} else {
					close(ready)
					_, fault := r.apply(first, end, 2)
					_, again := r.apply(first, end, 2) // from now on at once
					err = errors.Join(wantStatus(fault, c.status), wantStatus(again, c.status))
					found, failed := r.comm.QueryFaults()
					if failed != nil || found.Status != c.status || c.status != ErrCommMismatch && found.Rank != 1 {
						err = errors.Join(err, fmt.Errorf("faults are %+v, %v", found, failed))
					}
					close(seen)
				}
				if err != nil || !c.alive {
					return err
				}
				if err := r.comm.Reset(context.Background(), nil); err != nil {
					return err
				}
				_, err = r.apply(first, end, 3)
				return err
			})
		})
	}
}

func TestCommAbortsBesideACall(t *testing.T) {
	needLibrary(t)
	group, done := lastGroup.Add(1), make(chan struct{})
	onRanks(t, 2, func(r *commRank) error {
		if err := r.join(commSizes(r.rank, 2, group)); err != nil {
			return err
		}
		if r.rank == 1 {
			<-done // it does not apply
			return nil
		}
		defer close(done)
		time.AfterFunc(50*time.Millisecond, func() { r.comm.Abort() })
		start := time.Now()
		_, err := r.apply(0, 12, 0)
		if took := time.Since(start); took > 5*time.Second {
			return fmt.Errorf("abort took %v", took)
		}
		return wantStatus(err, ErrCommRankLost, "rank 0")
	})
}

// commTable is an all-gather as a store would do it.
type commTable struct {
	mutex sync.Mutex
	ready *sync.Cond
	rows  map[int][][]byte // by round
	round []int
}

func newCommTable(size int) *commTable {
	t := &commTable{rows: map[int][][]byte{}, round: make([]int, size)}
	t.ready = sync.NewCond(&t.mutex)
	return t
}

func (t *commTable) allGather(rank int, mine, all []byte) error {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	round, size := t.round[rank], len(t.round)
	t.round[rank]++
	if t.rows[round] == nil {
		t.rows[round] = make([][]byte, size)
	}
	t.rows[round][rank] = slices.Clone(mine)
	t.ready.Broadcast()
	for slices.ContainsFunc(t.rows[round], func(row []byte) bool { return row == nil }) {
		t.ready.Wait()
	}
	if n := copy(all, slices.Concat(t.rows[round]...)); n != len(all) {
		return fmt.Errorf("%d bytes of %d", n, len(all))
	}
	return nil
}

func TestCommAllGather(t *testing.T) {
	needLibrary(t)
	want := wholeLayer(t)
	for _, transport := range []CommTransport{CommTransportAuto, CommTransportCollective} {
		table, got := newCommTable(2), make([]BF16, len(want))
		onRanks(t, 2, func(r *commRank) error {
			desc := commSizes(r.rank, 2, 0)
			desc.Transport = transport
			desc.AllGather = func(mine, all []byte) error { return table.allGather(r.rank, mine, all) }
			if err := r.join(desc); err != nil {
				return err
			}
			first, end := r.share()
			y, err := r.apply(first, end, 0)
			copy(got[first*commHidden:], y)
			return err
		})
		if !slices.Equal(got, want) {
			t.Errorf("%v: other bits", transport)
		}
	}
}

func TestCommAllGatherFails(t *testing.T) {
	x := cpu(t)
	before := raw.Registered()
	desc := commSizes(0, 2, 0)
	gone := errors.New("the store is gone")
	desc.AllGather = func(mine, all []byte) error { return gone }
	_, err := NewComm(context.Background(), x, desc, nil)
	check(t, wantStatus(err, ErrCommError, "all_gather returned 1", "the store is gone"))
	if !errors.Is(err, gone) {
		t.Errorf("%v is not its cause", err)
	}
	desc.AllGather = func(mine, all []byte) error { panic("no such rank") }
	func() {
		defer func() {
			if value := recover(); value != "no such rank" {
				t.Errorf("recovered %v", value)
			}
		}()
		NewComm(context.Background(), x, desc, nil)
		t.Error("it returned")
	}()
	if after := raw.Registered(); after != before {
		t.Errorf("%d hooks are left", after-before)
	}
}

// TestCommPanicInApply: locks are given back when a function of the caller's panics inside an apply.
func TestCommPanicInApply(t *testing.T) {
	needLibrary(t)
	table := newCommTable(2)
	var broken atomic.Bool
	onRanks(t, 2, func(r *commRank) (err error) {
		desc := commSizes(r.rank, 2, 0)
		desc.Timeout = 400 * time.Millisecond
		desc.Transport = CommTransportCollective
		desc.AllGather = func(mine, all []byte) error {
			if broken.Load() {
				panic("broken")
			}
			return table.allGather(r.rank, mine, all)
		}
		if err := r.join(desc); err != nil {
			return err
		}
		first, end := r.share()
		if _, err := r.apply(first, end, 0); err != nil {
			return err
		}
		broken.Store(true)
		for range 2 {
			func() {
				defer func() {
					if value := recover(); value != nil && value != "broken" {
						err = fmt.Errorf("recovered %v", value)
					}
				}()
				_, failure := r.apply(first, end, 0)
				err = errors.Join(err, wantStatus(failure, ErrCommError))
			}()
		}
		return err
	})
}

func TestCommClosed(t *testing.T) {
	x := cpu(t)
	comm := must[*Comm](t)(NewComm(context.Background(), x, CommDesc{}, nil))
	check(t, comm.Close())
	check(t, comm.Close())
	_, err := comm.Query()
	check(t, wantStatus(err, ErrInvalidState, "the communicator is closed"))
	check(t, wantStatus(comm.Abort(), ErrInvalidState))
	check(t, wantStatus(comm.Reset(context.Background(), nil), ErrInvalidState))
}

func TestNCCLThatIsNotThere(t *testing.T) {
	x := cpu(t)
	const path = "/nonexistent/libnccl.so.2"
	_, err := QueryNCCL(path)
	check(t, wantStatus(err, ErrNCCLUnavailable, "nccl_query", path))
	_, err = NewNCCLID(path)
	check(t, wantStatus(err, ErrNCCLUnavailable, "nccl_get_unique_id", path))
	desc := commSizes(0, 2, 0)
	desc.NCCLID, desc.NCCLPath = make([]byte, 128), path
	_, err = NewComm(context.Background(), x, desc, nil)
	check(t, wantStatus(err, ErrNCCLUnavailable, path))
}

// TestCommDescHasEveryField: a field that the header gets is not forgotten here.
func TestCommDescHasEveryField(t *testing.T) {
	// By other means: the kind by what is given, NCCL's source by its path, control by ctx; a barrier is an AllGather.
	other := []string{"StructSize", "Reserved", "Kind", "NCCL", "Barrier", "User", "Control", "TimeoutNs"}
	ours := reflect.TypeFor[CommDesc]()
	theirs := reflect.TypeFor[raw.CommDesc]()
	for i := range theirs.NumField() {
		field := theirs.Field(i)
		if _, ok := ours.FieldByName(field.Name); !ok && !slices.Contains(other, field.Name) {
			t.Errorf("CommDesc has no %s", field.Name)
		}
	}
}
