// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import "sync"

// Workspace is the scratch memory of apply. Calls that share one wait for each other on the host; on a GPU they share it
// only in the order of one stream. For calls side by side each has its own.
type Workspace struct {
	buffer *Buffer
	mutex  sync.Mutex
}

// NewWorkspace allocates what calls of up to maxTokens tokens need for full speed.
func NewWorkspace(layer *Layer, maxTokens int) (*Workspace, error) {
	info, err := layer.QueryWorkspace(maxTokens)
	if err != nil {
		return nil, err
	}
	return newWorkspace(layer, info)
}

func newWorkspace(layer *Layer, info WorkspaceInfo) (*Workspace, error) {
	if err := layer.acquire("context_alloc"); err != nil {
		return nil, err
	}
	defer layer.release()
	buffer, err := newBuffer(layer.context, info.Bytes)
	if err != nil {
		return nil, err
	}
	return &Workspace{buffer: buffer}, nil
}

// WorkspaceIn uses a Buffer, e.g. of a size between WorkspaceInfo's MinimumBytes and Bytes. Close closes it too.
func WorkspaceIn(buffer *Buffer) *Workspace { return &Workspace{buffer: buffer} }

// Bytes is the size.
func (w *Workspace) Bytes() int { return w.buffer.bytes }

// Close gives the memory back when no bound call uses it any more. It may be called again; the error is always nil.
func (w *Workspace) Close() error { return w.buffer.Close() }
