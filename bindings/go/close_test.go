// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestClose closes in random orders and twice; whatever is closed says so, nothing is destroyed twice or left.
func TestClose(t *testing.T) {
	needLibrary(t)
	before := live.Load()
	for seed := range uint64(50) {
		x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1}))
		l := must[*Layer](t)(NewLayer(x, smallDesc()))
		w := must[*Weights](t)(NewWeights(l, nil))
		fill(t, w, smallDesc(), seed)
		check(t, w.Prepare(context.Background(), nil))
		test := &testLayer{x, l, w, smallDesc()}
		workspace := must[*Workspace](t)(NewWorkspace(l, 4))
		call := must[*Call](t)(l.Bind(w, test.inputs(4, seed).args(test, workspace)))
		buffer := must[*Buffer](t)(NewBuffer(x, 100))
		list := []interface{ Close() error }{x, l, w, workspace, call, buffer}
		rand.New(rand.NewPCG(seed, 3)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		for _, o := range list {
			check(t, o.Close())
			// A bound call keeps what it uses alive.
			if err := call.Apply(0); err != nil && !errors.Is(err, ErrInvalidState) {
				t.Fatal(err)
			}
			check(t, o.Close())
		}
		_, one := x.Query()
		_, two := l.Query()
		_, three := w.Query()
		_, four := NewWorkspace(l, 4)
		_, five := NewBuffer(x, 1)
		_, six := NewWeights(l, nil)
		_, seven := NewLayer(x, smallDesc())
		_, eight := Download[byte](buffer, 1, 0)
		for i, err := range []error{one, two, three, four, five, six, seven, eight, call.Apply(0), call.ApplyTokens(1, 0), x.Synchronize(0),
			w.Prepare(context.Background(), nil)} {
			if !errors.Is(err, ErrInvalidState) || !strings.Contains(err.Error(), "closed") {
				t.Errorf("%d after Close: %v", i, err)
			}
		}
	}
	if left := live.Load() - before; left > 0 {
		t.Errorf("%d handles are left", left)
	}
}

// TestCloseRace closes while calls run: each call works or says that the object is closed.
func TestCloseRace(t *testing.T) {
	needLibrary(t)
	before := live.Load()
	for range 30 {
		x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1}))
		l := must[*Layer](t)(NewLayer(x, smallDesc()))
		var wait sync.WaitGroup
		for range 8 {
			wait.Go(func() {
				for {
					if _, err := l.Query(); err != nil {
						if !errors.Is(err, ErrInvalidState) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		for range 3 {
			wait.Go(func() { l.Close(); x.Close() })
		}
		wait.Wait()
	}
	if left := live.Load() - before; left > 0 {
		t.Errorf("%d handles are left", left)
	}
}

// TestNet forgets everything and has the collector close it, a bound call with its pinned slices too.
func TestNet(t *testing.T) {
	needLibrary(t)
	before := live.Load()
	func() {
		for range 10 {
			x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1}))
			l := must[*Layer](t)(NewLayer(x, smallDesc()))
			w := must[*Weights](t)(NewWeights(l, nil))
			fill(t, w, smallDesc(), 5)
			check(t, w.Prepare(context.Background(), nil))
			test := &testLayer{x, l, w, smallDesc()}
			workspace := must[*Workspace](t)(NewWorkspace(l, 4))
			call := must[*Call](t)(l.Bind(w, test.inputs(4, 5).args(test, workspace)))
			check(t, call.Apply(0))
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); live.Load() > before && time.Now().Before(deadline); {
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
	// Fewer are left where tests before this one forgot some.
	if left := live.Load() - before; left > 0 {
		t.Errorf("%d handles are left", left)
	}
}

// TestKept has a tensor keep its forgotten buffer.
func TestKept(t *testing.T) {
	x := cpu(t)
	l := newTestLayer(t, x, smallDesc())
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 2))
	defer workspace.Close()
	in := l.inputs(2, 1)
	args := in.args(l, workspace)
	args.X = must[*Buffer](t)(Upload(x, in.x, 0)).Tensor(DtypeBF16, 2, l.desc.Hidden)
	for range 5 {
		runtime.GC()
		time.Sleep(2 * time.Millisecond)
	}
	check(t, l.layer.Apply(l.weights, args, 0))
}

// memory is the resident memory in KiB and the number of threads.
func memory(t *testing.T) (resident, threads int) {
	t.Helper()
	runtime.GC()
	content, err := os.ReadFile("/proc/self/status")
	check(t, err)
	for _, line := range strings.Split(string(content), "\n") {
		fields := strings.Fields(line)
		if len(fields) > 1 && fields[0] == "VmRSS:" {
			resident, _ = strconv.Atoi(fields[1])
		}
		if len(fields) > 1 && fields[0] == "Threads:" {
			threads, _ = strconv.Atoi(fields[1])
		}
	}
	return resident, threads
}

// TestLeaks makes and destroys, applies and fails many times over: memory, handles and threads stay flat. DSV4MX_LEAK_PAIRS
// sets how often (100,000).
func TestLeaks(t *testing.T) {
	x := cpu(t)
	pairs := 100000
	if text := os.Getenv("DSV4MX_LEAK_PAIRS"); text != "" {
		pairs = must[int](t)(strconv.Atoi(text))
	}
	desc := LayerDesc{Hidden: 32, Intermediate: 32, Experts: 1, TopK: 1, W13Order: W13OrderGateUp}
	l := newTestLayer(t, x, desc)
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 1))
	defer workspace.Close()
	in := l.inputs(1, 1)
	bad := desc
	bad.Hidden = 33
	round := func() {
		layer := must[*Layer](t)(NewLayer(x, desc))
		w := must[*Weights](t)(NewWeights(layer, nil))
		comm := must[*Comm](t)(NewComm(context.Background(), x, CommDesc{}, nil))
		check(t, l.layer.Apply(l.weights, in.args(l, workspace), 0))
		if _, err := NewLayer(x, bad); !errors.Is(err, ErrUnsupportedShape) {
			t.Fatal(err)
		}
		comm.Close()
		w.Close()
		layer.Close()
	}
	for range pairs / 10 {
		round()
	}
	// What leaks leaks every time; a heap that settles grows once or twice, and what earlier tests left may be freed meanwhile.
	for turn := 1; ; turn++ {
		memoryBefore, threadsBefore := memory(t)
		liveBefore, filesBefore := live.Load(), openFiles(t)
		for range pairs {
			round()
		}
		memoryAfter, threadsAfter := memory(t)
		t.Logf("%d pairs and applies: %d -> %d KiB, %d -> %d threads, %d -> %d files", pairs, memoryBefore, memoryAfter, threadsBefore,
			threadsAfter, filesBefore, openFiles(t))
		if threadsAfter > threadsBefore+4 || live.Load() > liveBefore || openFiles(t) > filesBefore {
			t.Errorf("threads %d -> %d, handles %d -> %d, files %d -> %d", threadsBefore, threadsAfter, liveBefore, live.Load(), filesBefore,
				openFiles(t))
		}
		if memoryAfter-memoryBefore <= 4096 {
			return
		}
		if turn == 3 {
			t.Fatalf("memory %d -> %d KiB in the last of %d turns", memoryBefore, memoryAfter, turn)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	return len(entries)
}
