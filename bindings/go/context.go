// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Stream is a CUDA stream by its address, the same as a cudaStream_t or CUstream. CPU contexts ignore it.
type Stream = raw.Stream

// Streams that CUDA gives.
const (
	// StreamDefault is the legacy default stream.
	StreamDefault Stream = 0
	// StreamLegacy is the same by its own name.
	StreamLegacy Stream = 1
	// StreamPerThread belongs to the OS thread: a goroutine that uses it is locked to its thread.
	StreamPerThread Stream = 2
)

// Allocator gives the memory of a context. Its methods are called on the goroutine that made the dsv4mx call, never by
// an apply, and from several goroutines where several make calls.
type Allocator interface {
	// Alloc gives the address of memory of a kind, 0 on failure. It is not Go's: the collector must not own it.
	Alloc(bytes, alignment uintptr, memory Memory, stream Stream) uintptr
	// Free takes back what Alloc gave.
	Free(pointer, bytes uintptr, memory Memory, stream Stream)
}

// ContextOptions say how to open a device. The zero value is the default.
type ContextOptions struct {
	// Device is the kind of device; 0: the first usable CUDA device, else the CPU.
	Device Device
	// Ordinal is the CUDA device's number.
	Ordinal int
	// Threads of the CPU backend; 0: as many as the process may use.
	Threads int
	// CPUISA is the instruction set of the CPU backend; 0: the best there is.
	CPUISA CPUISA
	// Log receives one line of text on the goroutine that made the call; nil: no log. It may be called from several
	// goroutines. A panic in it goes on in the call that logged; runtime.Goexit is not for it (raw.Hooks says why).
	Log func(level LogLevel, text string)
	// LogLevel is the least severe level that is logged; 0: LogWarning.
	LogLevel LogLevel
	// Allocator gives the memory of experts and buffers; nil: the library's own.
	Allocator Allocator
	// PlanFile overrides the compiled-in kernel plan; CUDA only. Experimental: outside every promise.
	PlanFile string
}

// Context is one device, or the CPU. Safe for many goroutines.
type Context struct{ owner }

// NewContext opens a device; options may be nil. The library is loaded if it is not yet.
func NewContext(options *ContextOptions) (*Context, error) {
	const op = "context_create"
	lib, err := library()
	if err != nil {
		return nil, err
	}
	if options == nil {
		options = &ContextOptions{}
	}
	c := &converter{op: op}
	defer c.done()
	desc := raw.NewContextDesc()
	desc.Device = options.Device
	desc.DeviceOrdinal = int32(c.number("device_ordinal", options.Ordinal, 4))
	desc.Threads = int32(c.number("threads", options.Threads, 4))
	desc.CPUISA = options.CPUISA
	desc.LogLevel = options.LogLevel
	if options.PlanFile != "" {
		experimental := raw.NewContextExperimental()
		experimental.PlanFile = c.text("plan_file", options.PlanFile)
		c.pin(&experimental)
		desc.Experimental = uintptr(unsafe.Pointer(&experimental))
	}
	if c.err != nil {
		return nil, c.err
	}
	var hooks *raw.Hooks
	var user uintptr
	if options.Log != nil || options.Allocator != nil {
		hooks = &raw.Hooks{Log: options.Log}
		user = raw.Register(hooks)
		functions := raw.CallbackFunctions()
		if options.Log != nil {
			desc.Log, desc.LogUser = functions.Log, user
		}
		if options.Allocator != nil {
			hooks.Alloc, hooks.Free = options.Allocator.Alloc, options.Allocator.Free
			desc.Alloc, desc.Free, desc.AllocUser = functions.Alloc, functions.Free, user
		}
	}
	var handle raw.Context
	status, text := lib.ContextCreate(&desc, &handle)
	if status != StatusOK {
		raw.Unregister(user)
		if hooks != nil {
			if value := hooks.Panicked(); value != nil {
				panic(value)
			}
		}
		return nil, fail(op, status, text)
	}
	o := newObject(lib, "context", uintptr(handle), func() {
		lib.ContextDestroy(handle)
		raw.Unregister(user)
	})
	o.hooks = hooks
	context := &Context{owner{o}}
	netted(context, o)
	o.finish()
	return context, nil
}

func (x *Context) handle() raw.Context { return raw.Context(x.address) }

// Query says what the context runs on.
func (x *Context) Query() (ContextInfo, error) {
	const op = "context_query"
	var out ContextInfo
	if err := x.acquire(op); err != nil {
		return out, err
	}
	defer x.release()
	info := raw.NewContextInfo()
	status, text := x.lib.ContextQuery(x.handle(), &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}

// Synchronize waits for the stream and reports what failed on it, and ErrInvalidID if a layer that checks ids met bad
// ones since this was last reported.
func (x *Context) Synchronize(stream Stream) error {
	const op = "context_synchronize"
	if err := x.acquire(op); err != nil {
		return err
	}
	defer x.release()
	status, text := x.lib.ContextSynchronize(x.handle(), stream)
	return fail(op, status, text)
}

// DeviceCount is the number of devices of a kind: 1 for the CPU, 0 for CUDA without a driver. It opens none.
func DeviceCount(device Device) (int, error) {
	lib, err := library()
	if err != nil {
		return 0, err
	}
	count := new(int32)
	status, text := lib.DeviceGetCount(device, count)
	return int(*count), fail("device_get_count", status, text)
}

// QueryDevice describes a device, usable or not. It opens none.
func QueryDevice(device Device, ordinal int) (DeviceInfo, error) {
	const op = "device_query"
	var out DeviceInfo
	lib, err := library()
	if err != nil {
		return out, err
	}
	c := converter{op: op}
	number := int32(c.number("ordinal", ordinal, 4))
	if c.err != nil {
		return out, c.err
	}
	info := raw.NewDeviceInfo()
	status, text := lib.DeviceQuery(device, number, &info)
	if status == StatusOK {
		out.fromRaw(&info)
	}
	return out, fail(op, status, text)
}
