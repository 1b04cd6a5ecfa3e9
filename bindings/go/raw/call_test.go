// SPDX-License-Identifier: Apache-2.0

package raw

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

func openFake(t testing.TB) *Library {
	t.Helper()
	library, err := Open(fake(t, true))
	if err != nil {
		t.Fatal(err)
	}
	return library
}

// TestErrorText fails from many goroutines, each with texts of its own, and counts those that came from another one.
func TestErrorText(t *testing.T) {
	library := openFake(t)
	const goroutines = 32
	end := time.Now().Add(2 * time.Second)
	var calls, foreign atomic.Int64
	var wait sync.WaitGroup
	for range goroutines {
		wait.Go(func() {
			for time.Now().Before(end) {
				number := uintptr(calls.Add(1))
				status, text := library.StructInit(0, number)
				if status != StatusInvalidArgument || text != strconv.Itoa(int(number)) {
					foreign.Add(1)
				}
			}
		})
	}
	wait.Wait()
	t.Logf("%d failing calls from %d goroutines, %d foreign texts", calls.Load(), goroutines, foreign.Load())
	if n := foreign.Load(); n != 0 {
		t.Errorf("%d of %d texts came from another call", n, calls.Load())
	}
	if status, text := library.StructInit(0, 0); status != StatusOK || text != "" {
		t.Errorf("a good call gave %s %q", status, text)
	}
}

// TestForeignThread has Go called on a thread that Go did not start.
func TestForeignThread(t *testing.T) {
	library := openFake(t)
	for _, goOn := range []bool{true, false} {
		var calls atomic.Int64
		hooks := &Hooks{Progress: func(stage Stage, done, total int64) bool {
			if stage != StagePrepare || done != 3 || total != 7 {
				t.Errorf("progress(%s, %d, %d)", stage, done, total)
			}
			calls.Add(1)
			return goOn
		}}
		status, want := prepare(library, hooks), StatusOK
		if !goOn {
			want = StatusCancelled
		}
		if status != want || calls.Load() != 1 {
			t.Errorf("%s after %d calls of progress, wanted %s after 1", status, calls.Load(), want)
		}
	}
}

// prepare makes the stand-in call progress.
func prepare(library *Library, hooks *Hooks) Status {
	user := Register(hooks)
	defer Unregister(user)
	control := new(Control)
	*control = NewControl()
	control.Progress, control.ProgressUser = CallbackFunctions().Progress, user
	args := NewPrepareArgs()
	args.Control = uintptr(unsafe.Pointer(control))
	status, _ := library.WeightsPrepare(0, &args, 0)
	return status
}

// TestPanic has a hook panic: it must not run through C, cancels, and is there to be raised again, once.
func TestPanic(t *testing.T) {
	library := openFake(t)
	hooks := &Hooks{Progress: func(Stage, int64, int64) bool { panic("no more") }}
	if status := prepare(library, hooks); status != StatusCancelled {
		t.Errorf("%s, wanted CANCELLED", status)
	}
	if value := hooks.Panicked(); value != "no more" {
		t.Errorf("panicked with %v", value)
	}
	if value := hooks.Panicked(); value != nil {
		t.Errorf("panicked again with %v", value)
	}
}

// TestUnregistered has C call under a user pointer that is not known any more.
func TestUnregistered(t *testing.T) {
	if onProgress(1<<40, StageLoad, 0, 0) != 0 || onAlloc(1<<40, 1, 1, MemoryHost, 0) != 0 {
		t.Error("an unknown user pointer did something")
	}
	onLog(1<<40, LogError, 0)
	onFree(1<<40, 1, 1, MemoryHost, 0)
}

// TestOptional calls a function that the library lacks.
func TestOptional(t *testing.T) {
	library := openFake(t)
	library.functions[fnWeightsQueryCensus] = 0
	if status, text := library.WeightsQueryCensus(0, &WeightsCensus{}); status != StatusUnsupported || text != missing {
		t.Errorf("%s %q", status, text)
	}
}

// TestNames has the names of codes, known and unknown.
func TestNames(t *testing.T) {
	for got, want := range map[string]string{
		StatusWorkspaceTooSmall.String(): "WORKSPACE_TOO_SMALL",
		Status(99).String():              "Status(99)",
		StatusNotFound.Error():           "dsv4mx: NOT_FOUND",
		DtypeE2M1.String():               "E2M1",
		W13OrderGateUp.String():          "GATE_UP",
		Reason(77).String():              "Reason(77)",
		WrongVersion.String():            "wrong ABI version",
	} {
		if got != want {
			t.Errorf("%q, wanted %q", got, want)
		}
	}
}
