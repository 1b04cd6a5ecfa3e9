// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// TestLog has each context log to its own function.
func TestLog(t *testing.T) {
	needLibrary(t)
	before := raw.Registered()
	var texts [3][]string
	var contexts [3]*Context
	for i := range contexts {
		contexts[i] = must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1, LogLevel: LogInfo,
			Log: func(level LogLevel, text string) { texts[i] = append(texts[i], level.String()+" "+text) }}))
	}
	for i, x := range contexts {
		for range i {
			must[*Layer](t)(NewLayer(x, smallDesc())).Close()
		}
	}
	for i := range texts {
		if len(texts[i]) < i+1 || len(texts[i]) > 2*i+2 {
			t.Errorf("context %d logged %q", i, texts[i])
		}
		for _, text := range texts[i] {
			if !strings.HasPrefix(text, "INFO ") || strings.Contains(text, "\n") {
				t.Errorf("%q", text)
			}
		}
	}
	for _, x := range contexts {
		x.Close()
	}
	if n := raw.Registered() - before; n != 0 {
		t.Errorf("%d hooks are left", n)
	}
}

// pool is an allocator of C's memory... of a context that has none of its own.
type pool struct {
	from  *Context
	mutex sync.Mutex
	live  map[uintptr]*Buffer
	count int
	fail  bool
}

func (p *pool) Alloc(bytes, alignment uintptr, memory Memory, stream Stream) uintptr {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.fail {
		return 0
	}
	buffer, err := NewBuffer(p.from, int(bytes+alignment))
	if err != nil {
		return 0
	}
	address := (buffer.Address() + alignment - 1) &^ (alignment - 1)
	p.live[address] = buffer
	p.count++
	return address
}

func (p *pool) Free(pointer, bytes uintptr, memory Memory, stream Stream) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.live[pointer].Close()
	delete(p.live, pointer)
}

// TestAllocator has Go give the memory, until the last child of the context is closed.
func TestAllocator(t *testing.T) {
	base := cpu(t)
	p := &pool{from: base, live: map[uintptr]*Buffer{}}
	before := raw.Registered()
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1, Allocator: p}))
	l := must[*Layer](t)(NewLayer(x, smallDesc()))
	w := must[*Weights](t)(NewWeights(l, nil))
	fill(t, w, smallDesc(), 1)
	check(t, w.Prepare(context.Background(), nil))
	if p.count == 0 || len(p.live) == 0 {
		t.Errorf("%d allocations, %d live", p.count, len(p.live))
	}
	x.Close()
	l.Close()
	if len(p.live) == 0 || raw.Registered() != before+1 {
		t.Error("the context went before its weights")
	}
	w.Close()
	if len(p.live) != 0 || raw.Registered() != before {
		t.Errorf("%d blocks and %d hooks are left", len(p.live), raw.Registered()-before)
	}

	x = must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1, Allocator: p}))
	defer x.Close()
	p.fail = true
	if _, err := NewBuffer(x, 100); !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("an allocator that fails: %v", err)
	}
}

// TestPanicPasses has callbacks panic: the panic comes out of the call that ran them, and everything goes on.
func TestPanicPasses(t *testing.T) {
	needLibrary(t)
	before := raw.Registered()
	caught := func(f func()) (value any) {
		defer func() { value = recover() }()
		f()
		return nil
	}
	var angry bool
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1, LogLevel: LogInfo, Log: func(LogLevel, string) {
		if angry {
			panic("log")
		}
	}}))
	defer x.Close()
	angry = true
	if v := caught(func() { NewLayer(x, smallDesc()) }); v != "log" {
		t.Errorf("log: %v", v)
	}
	angry = false
	l := must[*Layer](t)(NewLayer(x, smallDesc()))
	defer l.Close()
	w := must[*Weights](t)(NewWeights(l, nil))
	defer w.Close()
	fill(t, w, smallDesc(), 1)
	if v := caught(func() {
		w.Prepare(context.Background(), &CallOptions{Progress: func(Stage, int64, int64) bool { panic("progress") }})
	}); v != "progress" {
		t.Errorf("progress: %v", v)
	}
	check(t, w.Prepare(context.Background(), nil))
	if n := raw.Registered() - before; n != 1 {
		t.Errorf("%d hooks, wanted the context's", n)
	}
}

// TestGoexit has callbacks end their goroutines, as FailNow of a test does: that ends nothing else.
func TestGoexit(t *testing.T) {
	needLibrary(t)
	var leave bool
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 1, LogLevel: LogInfo, Log: func(LogLevel, string) {
		if leave {
			runtime.Goexit()
		}
	}}))
	defer x.Close()
	l := must[*Layer](t)(NewLayer(x, smallDesc()))
	defer l.Close()
	w := must[*Weights](t)(NewWeights(l, nil))
	fill(t, w, smallDesc(), 1)
	ends := func(what string, call func()) {
		ended := make(chan bool)
		go func() {
			returned := false
			defer func() { ended <- !returned }()
			call()
			returned = true
		}()
		if !<-ended {
			t.Errorf("%s: the goroutine did not end in its callback", what)
		}
	}
	for range 3 {
		ends("progress", func() {
			w.Prepare(context.Background(), &CallOptions{Progress: func(Stage, int64, int64) bool { runtime.Goexit(); return true }})
		})
	}
	leave = true
	ends("log", func() { NewLayer(x, smallDesc()) })
	leave = false
	check(t, w.Prepare(context.Background(), nil))
	check(t, w.Close()) // waits for calls that run: none does
	must[*Layer](t)(NewLayer(x, smallDesc())).Close()
}

// TestControl cancels by a progress function, by a context, by a deadline; then the same call goes through.
func TestControl(t *testing.T) {
	x := cpu(t)
	desc := smallDesc()
	l := must[*Layer](t)(NewLayer(x, desc))
	defer l.Close()
	w := must[*Weights](t)(NewWeights(l, nil))
	defer w.Close()
	fill(t, w, desc, 1)
	background := context.Background()

	if err := w.Prepare(background, &CallOptions{Progress: func(Stage, int64, int64) bool { return false }}); !errors.Is(err, ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("progress said no: %v", err)
	}
	during, cancel := context.WithCancel(background)
	calls := 0
	err := w.Prepare(during, &CallOptions{Progress: func(stage Stage, done, total int64) bool {
		if calls++; calls == 1 {
			cancel()
		}
		return true
	}})
	if !errors.Is(err, ErrCancelled) || calls != 1 {
		t.Errorf("cancelled during the call: %v after %d calls of progress", err, calls)
	}
	if err := w.Prepare(during, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled before the call: %v", err)
	}
	past, cancelPast := context.WithTimeout(background, -time.Second)
	defer cancelPast()
	if err := w.Prepare(past, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late before the call: %v", err)
	}
	short, cancelShort := context.WithTimeout(background, 20*time.Millisecond)
	defer cancelShort()
	err = w.Prepare(short, &CallOptions{Progress: func(Stage, int64, int64) bool { time.Sleep(60 * time.Millisecond); return true }})
	if !errors.Is(err, ErrDeadlineExceeded) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late during the call: %v", err)
	}
	var stages []Stage
	check(t, w.Prepare(background, &CallOptions{Progress: func(stage Stage, done, total int64) bool {
		stages = append(stages, stage)
		if done < 0 || done > total {
			t.Errorf("%s: %d of %d", stage, done, total)
		}
		return true
	}}))
	if len(stages) < 2 || stages[len(stages)-1] != StagePrepare {
		t.Errorf("stages %v", stages)
	}
	if n := unsafe.Sizeof(raw.Control{}); n != 40 {
		t.Errorf("a control has %d bytes", n)
	}
}
