// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/ebitengine/purego"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// best is what a call costs, ns: the best of many rounds of 1000 calls. A round is shorter than a time slice, so that on a busy
// machine some rounds are alone on their processor, which a mean over a benchmark's time never is, and long enough that two
// looks at the clock, which some hosts charge microseconds for, do not count. C, Rust and Python measure alike.
func best(b *testing.B, call func()) {
	const calls = 1000
	fastest := time.Duration(math.MaxInt64)
	for b.Loop() {
		start := time.Now()
		for range calls {
			call()
		}
		fastest = min(fastest, time.Since(start))
	}
	b.ReportMetric(float64(fastest.Nanoseconds())/calls, "ns/call")
	b.ReportMetric(0, "ns/op") // a round: of no interest
}

// BenchmarkApplyBound is the overhead of a call: no tokens, arguments bound once.
func BenchmarkApplyBound(b *testing.B) {
	l, args := noTokens(b)
	call := must[*Call](b)(l.layer.Bind(l.weights, args))
	defer call.Close()
	best(b, func() {
		if err := call.Apply(0); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkApply binds for each call.
func BenchmarkApply(b *testing.B) {
	l, args := noTokens(b)
	best(b, func() {
		if err := l.layer.Apply(l.weights, args, 0); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkApplyRaw is the raw layer alone.
func BenchmarkApplyRaw(b *testing.B) {
	l, args := noTokens(b)
	call := must[*Call](b)(l.layer.Bind(l.weights, args))
	defer call.Close()
	best(b, func() {
		if status, _ := l.layer.lib.LayerApply(l.layer.handle(), l.weights.handle(), call.args, 0); status != raw.StatusOK {
			b.Fatal(status)
		}
	})
}

// BenchmarkVersion is the cheapest function there is: what a call costs at least.
func BenchmarkVersion(b *testing.B) {
	needLibrary(b)
	lib := must[*raw.Library](b)(library())
	best(b, func() { lib.Version() })
}

// TestOverheadCUDA logs what the host spends on a bound call on a GPU, on a stream and while that is captured into a graph. It
// takes the driver's functions as they are, without a CUDA package.
func TestOverheadCUDA(t *testing.T) {
	needLibrary(t)
	if !slices.Contains(testDevices(t), DeviceCUDA) {
		t.Skip("needs a CUDA device")
	}
	library, err := purego.Dlopen("libcuda.so.1", purego.RTLD_NOW)
	if err != nil {
		t.Skip("needs the driver: ", err)
	}
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCUDA}))
	defer x.Close()
	runtime.LockOSThread() // the driver's current context is the thread's
	defer runtime.UnlockOSThread()
	driver := func(name string, arguments ...uintptr) {
		t.Helper()
		if r, _, _ := purego.SyscallN(must[uintptr](t)(purego.Dlsym(library, name)), arguments...); uint32(r) != 0 {
			t.Fatalf("%s: %d", name, uint32(r))
		}
	}
	place := must[*Buffer](t)(NewBuffer(cpu(t), 64)) // memory of C for what the driver gives
	defer place.Close()
	given := func() uintptr { return must[[]uintptr](t)(downloadWords(place))[0] }
	driver("cuInit", 0)
	driver("cuDevicePrimaryCtxRetain", place.Address(), 0)
	driver("cuCtxSetCurrent", given())
	driver("cuStreamCreate", place.Address(), 1)
	stream := given()
	look := time.Hour
	for range 1000 {
		start := time.Now()
		look = min(look, time.Since(start))
	}
	t.Logf("two looks at the clock take %v", look)

	desc := smallDesc()
	l := newTestLayer(t, x, desc)
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 1))
	defer workspace.Close()
	for _, tokens := range []int{0, 1} {
		calls := 1000
		if tokens > 0 {
			calls = 50 // which a stream takes without a wait
		}
		in := l.inputs(tokens, 1)
		upload := func(b *Buffer, err error) *Buffer { return must[*Buffer](t)(b, err) }
		bx, bi := upload(Upload(x, in.x, 0)), upload(Upload(x, in.ids, 0))
		bw, bo := upload(Upload(x, in.weights, 0)), upload(Upload(x, in.out, 0))
		call := must[*Call](t)(l.layer.Bind(l.weights, &ApplyArgs{
			X: bx.Tensor(DtypeBF16, tokens, desc.Hidden), TopKIDs: bi.Tensor(DtypeI32, tokens, desc.TopK),
			TopKWeights: bw.Tensor(DtypeF32, tokens, desc.TopK), Out: bo.Tensor(DtypeBF16, tokens, desc.Hidden), Workspace: workspace,
		}))
		for _, captured := range []bool{false, true} {
			best := time.Hour
			for range 400 {
				if captured {
					driver("cuStreamBeginCapture_v2", stream, 0)
				}
				start := time.Now()
				for range calls {
					if err := call.Apply(Stream(stream)); err != nil {
						t.Fatal(err)
					}
				}
				best = min(best, time.Since(start))
				if captured {
					driver("cuStreamEndCapture", stream, place.Address())
					driver("cuGraphDestroy", given())
				} else {
					check(t, x.Synchronize(Stream(stream)))
				}
			}
			t.Logf("%d tokens, captured %v: the host spends %.0f ns on a bound call", tokens, captured, float64(best.Nanoseconds())/float64(calls))
		}
		for _, c := range []interface{ Close() error }{call, bx, bi, bw, bo} {
			c.Close()
		}
	}
	driver("cuStreamDestroy_v2", stream)
}

// downloadWords is what lies in a buffer of the CPU.
func downloadWords(b *Buffer) ([]uintptr, error) {
	low, err := Download[int64](b, 1, 0)
	if err != nil {
		return nil, err
	}
	return []uintptr{uintptr(low[0])}, nil
}

func noTokens(b *testing.B) (*testLayer, *ApplyArgs) {
	l := newTestLayer(b, cpu(b), smallDesc())
	workspace := must[*Workspace](b)(NewWorkspace(l.layer, 1))
	b.Cleanup(func() { workspace.Close() })
	return l, l.inputs(0, 1).args(l, workspace)
}
