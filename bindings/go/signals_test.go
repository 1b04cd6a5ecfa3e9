// SPDX-License-Identifier: Apache-2.0

//go:build linux

package dsv4mx

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// TestSignals sends a signal to every thread of the process while applies run, the library's own threads too: Go's handler
// has to work on threads that Go did not start, and the library has to go on.
func TestSignals(t *testing.T) {
	needLibrary(t)
	x := must[*Context](t)(NewContext(&ContextOptions{Device: DeviceCPU, Threads: 2}))
	defer x.Close()
	desc := LayerDesc{Hidden: 512, Intermediate: 256, Experts: 8, TopK: 4, W13Order: W13OrderGateUp}
	l := newTestLayer(t, x, desc)
	workspace := must[*Workspace](t)(NewWorkspace(l.layer, 16))
	defer workspace.Close()
	in := l.inputs(16, 1)
	call := must[*Call](t)(l.layer.Bind(l.weights, in.args(l, workspace)))
	defer call.Close()
	check(t, call.Apply(0))
	want := append([]BF16(nil), in.out...)

	got := make(chan os.Signal, 1<<16)
	signal.Notify(got, syscall.SIGUSR1) // for good: one that is still under way would end the process
	stop := make(chan struct{})
	sent := make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				sent <- n
				return
			default:
			}
			threads, _ := os.ReadDir("/proc/self/task")
			for _, thread := range threads {
				if id, err := strconv.Atoi(thread.Name()); err == nil {
					if _, _, errno := syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(id), uintptr(syscall.SIGUSR1)); errno == 0 {
						n++
					}
				}
			}
			time.Sleep(200 * time.Microsecond)
		}
	}()
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		clear(in.out)
		check(t, call.Apply(0))
		for i := range want {
			if in.out[i] != want[i] {
				t.Fatalf("other bits at %d", i)
			}
		}
	}
	close(stop)
	if n := <-sent; n < 100 || len(got) == 0 {
		t.Errorf("%d signals sent, %d received", n, len(got))
	}
}
