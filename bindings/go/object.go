// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"runtime"
	"sync/atomic"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// object is a handle of C with a count of its users: the owner, every call that runs, every child. The last one destroys
// it, so Close beside a running call is safe, and so is any order of Close.
type object struct {
	lib     *raw.Library
	kind    string
	address uintptr
	destroy func()
	parents []*object  // held until this one is destroyed
	hooks   *raw.Hooks // of the context; nil if it has none
	uses    atomic.Int64
	closed  atomic.Bool
}

// live counts objects that are not destroyed, for the tests.
var live atomic.Int64

// newObject makes an object with one user, its owner, and holds the parents, which the caller holds too.
func newObject(lib *raw.Library, kind string, address uintptr, destroy func(), parents ...*object) *object {
	o := &object{lib: lib, kind: kind, address: address, destroy: destroy, parents: parents}
	for _, parent := range parents {
		parent.uses.Add(1)
		if parent.hooks != nil {
			o.hooks = parent.hooks
		}
	}
	o.uses.Store(1)
	live.Add(1)
	return o
}

// acquire adds a user; an error if the owner has closed the object. release takes it away.
func (o *object) acquire(op string) error {
	for !o.closed.Load() {
		// 0 means destroyed: never to be raised again.
		if n := o.uses.Load(); n > 0 && o.uses.CompareAndSwap(n, n+1) {
			return nil
		}
	}
	return refuse(op, ErrInvalidState, "the %s is closed", o.kind)
}

func (o *object) release() {
	if o.uses.Add(-1) > 0 {
		return
	}
	o.destroy()
	live.Add(-1)
	for _, parent := range o.parents {
		parent.release()
	}
}

// drop is the owner's release; only the first one counts.
func (o *object) drop() {
	if !o.closed.Swap(true) {
		o.release()
	}
}

// finish is called after a call of C that may have run a callback: a panic in it goes on here.
func (o *object) finish() {
	if o.hooks == nil {
		return
	}
	if value := o.hooks.Panicked(); value != nil {
		panic(value)
	}
}

// acquireAll adds a user to each; on an error to none.
func acquireAll(op string, objects ...*object) error {
	for i, o := range objects {
		if err := o.acquire(op); err != nil {
			for _, before := range objects[:i] {
				before.release()
			}
			return err
		}
	}
	return nil
}

// owner is what the public types embed: Close, and the net for what was not closed.
type owner struct{ *object }

// Close gives the handle back. It may be called again, and from any goroutine; calls that run finish first. Stream work
// that uses the object has to be finished by the caller. The error is always nil.
func (o owner) Close() error {
	o.drop()
	return nil
}

// netted lets the collector close what its user forgot. It is a net against leaks, no way to manage memory: the
// collector does not know how much device memory hangs on a handle.
func netted[T any](outer *T, o *object) *T {
	runtime.AddCleanup(outer, (*object).drop, o)
	return outer
}
