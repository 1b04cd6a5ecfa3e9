// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// request is what one client asks for, and where its answer goes.
type request struct {
	ctx     context.Context // ends when the client has gone
	tokens  int
	x       []dsv4mx.BF16
	ids     []int32
	weights []float32
	out     []dsv4mx.BF16
	done    chan error // one answer; buffered, so that nobody waits for a client that has gone
}

// Errors that a client gets as 503.
var (
	errFull    = errors.New("the queue is full")
	errStopped = errors.New("the service is shutting down")
)

// batcher applies one layer to what waits in a bounded queue, as many requests at once as fit into a batch. One goroutine
// owns the layer's buffers; a call uses all of the device anyway.
type batcher struct {
	queue   chan *request
	stop    chan struct{}
	stopped chan struct{}
	model   *model
	metrics *metrics
}

func newBatcher(m *model, queue int, metrics *metrics) *batcher {
	return &batcher{make(chan *request, queue), make(chan struct{}), make(chan struct{}), m, metrics}
}

// submit waits for the answer, or for the client to go. It never waits for room in the queue.
func (b *batcher) submit(r *request) error {
	r.done = make(chan error, 1)
	select {
	case <-b.stop:
		return errStopped
	default:
	}
	select {
	case b.queue <- r:
		b.metrics.queued.Add(1)
	default:
		return errFull
	}
	select {
	case err := <-r.done:
		return err
	case <-r.ctx.Done():
		return r.ctx.Err()
	case <-b.stopped:
		// It came into the queue while the last batch ran.
		select {
		case err := <-r.done:
			return err
		default:
			return errStopped
		}
	}
}

// run serves the queue until close, and then what is still in it.
func (b *batcher) run() {
	defer close(b.stopped)
	var next *request
	for {
		if next == nil {
			select {
			case next = <-b.queue:
			case <-b.stop:
				select {
				case next = <-b.queue:
				default:
					return
				}
			}
			b.metrics.queued.Add(-1)
		}
		var batch []*request
		batch, next = b.collect(next)
		if len(batch) > 0 {
			b.serve(batch)
		}
	}
}

// collect takes what waits, up to a batch; what did not fit any more begins the next one.
func (b *batcher) collect(next *request) (batch []*request, rest *request) {
	tokens := 0
	for {
		switch {
		case next.ctx.Err() != nil:
			next.done <- next.ctx.Err()
		case tokens+next.tokens > b.model.maxTokens:
			return batch, next
		default:
			batch = append(batch, next)
			tokens += next.tokens
		}
		select {
		case next = <-b.queue:
			b.metrics.queued.Add(-1)
		default:
			return batch, nil
		}
	}
}

func (b *batcher) serve(batch []*request) {
	start := time.Now()
	tokens, err := b.model.apply(batch)
	b.metrics.batch(len(batch), tokens, time.Since(start))
	for _, r := range batch {
		r.done <- err
	}
}

// close ends run when the queue is empty, and waits for it.
func (b *batcher) close() {
	close(b.stop)
	<-b.stopped
}
