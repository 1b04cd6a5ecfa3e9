// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"context"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// SnapshotOptions are those of Weights.Save and Weights.Restore. The zero value is the default.
type SnapshotOptions struct {
	CallOptions
	// Threads that compress, read and check, 1..64; 0: the library's choice.
	Threads int
	// Level of zstd when saving, 1..19; 0: the library's choice; -1: nothing is compressed.
	Level int
}

// Save writes the prepared experts to one file, which appears under path when it is complete. Waits for the stream; ends with
// ctx; options may be nil.
//
// ErrInvalidArgument, ErrInvalidState (not prepared), ErrUnsupported (more than one file holds), ErrIOError, ErrCancelled,
// ErrDeadlineExceeded, ErrOutOfMemory, ErrCUDAError.
func (w *Weights) Save(ctx context.Context, path string, options *SnapshotOptions) error {
	if options == nil {
		options = &SnapshotOptions{}
	}
	return w.read("weights_save", &options.CallOptions, func(c *converter, _ *CallOptions) (Status, string) {
		name, args := c.string("path", path), options.toRaw(ctx, c)
		if c.err != nil {
			return StatusOK, ""
		}
		return w.lib.WeightsSave(w.handle(), name, args, options.Stream)
	})
}

// Restore fills empty weights from a file of Save and prepares them. After a failure they are empty. Ends with ctx; options may
// be nil.
//
// ErrInvalidArgument, ErrInvalidState (not empty), ErrNotFound (an expert that the file lacks), ErrUnsupported (another version
// or layout), ErrInvalidTensor (another shape), ErrInvalidScale, ErrIOError, ErrFormatError (also a damaged byte), ErrCancelled,
// ErrDeadlineExceeded, ErrOutOfMemory, ErrCUDAError.
func (w *Weights) Restore(ctx context.Context, path string, options *SnapshotOptions) error {
	if options == nil {
		options = &SnapshotOptions{}
	}
	return w.change("weights_restore", &options.CallOptions, nil, func(c *converter, _ *CallOptions) (Status, string) {
		name, args := c.string("path", path), options.toRaw(ctx, c)
		if c.err != nil {
			return StatusOK, ""
		}
		status, text := w.lib.WeightsRestore(w.handle(), name, args, options.Stream)
		if status == StatusOK {
			w.prepared.Store(true)
		}
		return status, text
	})
}

func (o *SnapshotOptions) toRaw(ctx context.Context, c *converter) *raw.SnapshotArgs {
	args := raw.NewSnapshotArgs()
	args.Control = c.control(ctx, o.Progress)
	args.Threads = int32(c.number("threads", o.Threads, 4))
	args.Level = int32(c.number("level", o.Level, 4))
	return &args
}

// QuerySnapshot says from a snapshot's header what it holds, and describes the layer that was saved: its defaults resolved,
// without placement, and with the experts of this file. ErrInvalidArgument, ErrIOError, ErrFormatError, ErrUnsupported (another
// version), ErrOutOfMemory.
func QuerySnapshot(path string) (SnapshotInfo, LayerDesc, error) {
	const op = "snapshot_query"
	var out SnapshotInfo
	var layer LayerDesc
	lib, err := library()
	if err != nil {
		return out, layer, err
	}
	c := converter{op: op}
	name := c.string("path", path)
	if c.err != nil {
		return out, layer, c.err
	}
	info, desc := raw.NewSnapshotInfo(), raw.NewLayerDesc()
	status, text := lib.SnapshotQuery(name, &info, &desc)
	if status == StatusOK {
		out.fromRaw(&info)
		layer.fromRaw(&desc)
	}
	return out, layer, fail(op, status, text)
}
