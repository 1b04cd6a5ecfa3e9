// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// model is one layer with its buffers, bound to one call. It is used by one goroutine.
type model struct {
	desc      dsv4mx.LayerDesc
	maxTokens int
	device    *dsv4mx.Context
	layer     *dsv4mx.Layer
	weights   *dsv4mx.Weights
	call      *dsv4mx.Call
	opened    []interface{ Close() error }

	// A batch on the host, and on the device.
	x, out           []dsv4mx.BF16
	ids              []int32
	router           []float32
	xAt, outAt       *dsv4mx.Buffer
	idsAt, routersAt *dsv4mx.Buffer
}

// config is what the flags say.
type config struct {
	path             string // of a checkpoint; "" is a random layer
	block            int
	desc             dsv4mx.LayerDesc // sizes of the random layer, and what a checkpoint does not know
	device           dsv4mx.Device
	maxTokens, queue int
	threads          int
}

func newModel(ctx context.Context, c config) (*model, error) {
	m := &model{maxTokens: c.maxTokens, desc: c.desc}
	if err := m.open(ctx, c); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// open makes all that the model has; after an error, close gives back what there is.
func (m *model) open(ctx context.Context, c config) (err error) {
	if m.device, err = dsv4mx.NewContext(&dsv4mx.ContextOptions{Device: c.device, Threads: c.threads}); err != nil {
		return err
	}
	m.opened = append(m.opened, m.device)
	var checkpoint *dsv4mx.Checkpoint
	if c.path != "" {
		if checkpoint, err = dsv4mx.NewCheckpoint(ctx, c.path, nil); err != nil {
			return err
		}
		defer checkpoint.Close()
		if m.desc, err = checkpoint.QueryLayer(dsv4mx.Block{Index: c.block}); err != nil {
			return err
		}
		m.desc.TopK, m.desc.ClampLimit = c.desc.TopK, c.desc.ClampLimit
	}
	// An answer does not depend on who else is in the batch.
	m.desc.Flags |= dsv4mx.LayerBatchInvariant
	if m.layer, err = dsv4mx.NewLayer(m.device, m.desc); err != nil {
		return err
	}
	m.opened = append(m.opened, m.layer)
	if m.weights, err = dsv4mx.NewWeights(m.layer, nil); err != nil {
		return err
	}
	m.opened = append(m.opened, m.weights)
	if checkpoint != nil {
		err = m.weights.Load(ctx, checkpoint, dsv4mx.Block{Index: c.block}, nil)
	} else {
		err = m.randomExperts(ctx)
	}
	if err == nil {
		err = m.weights.Prepare(ctx, nil)
	}
	if err == nil {
		err = m.bind()
	}
	return err
}

// randomExperts are the same in every run.
func (m *model) randomExperts(ctx context.Context) error {
	r := rand.NewChaCha8([32]byte{'d', 's', 'v', '4', 'm', 'x'})
	d := m.desc
	for _, t := range []struct {
		name          string
		rows, columns int
		scale         bool
	}{
		{"w13_weight", 2 * d.Intermediate, d.Hidden / 2, false}, {"w13_weight_scale", 2 * d.Intermediate, d.Hidden / 32, true},
		{"w2_weight", d.Hidden, d.Intermediate / 2, false}, {"w2_weight_scale", d.Hidden, d.Intermediate / 32, true},
	} {
		data := make([]byte, d.Experts*t.rows*t.columns)
		if _, err := r.Read(data); err != nil {
			return err
		}
		for i := range data {
			if t.scale {
				data[i] = 118 + data[i]%4 // 2^-9 to 2^-6
			}
		}
		if err := m.weights.Set(ctx, t.name, -1, dsv4mx.Of(data, d.Experts, t.rows, t.columns), nil); err != nil {
			return err
		}
	}
	return nil
}

// bind allocates the buffers of the largest batch and binds them.
func (m *model) bind() (err error) {
	n, h, k := m.maxTokens, m.desc.Hidden, m.desc.TopK
	m.x, m.out = make([]dsv4mx.BF16, n*h), make([]dsv4mx.BF16, n*h)
	m.ids, m.router = make([]int32, n*k), make([]float32, n*k)
	for _, b := range []struct {
		to    **dsv4mx.Buffer
		bytes int
	}{{&m.xAt, 2 * n * h}, {&m.outAt, 2 * n * h}, {&m.idsAt, 4 * n * k}, {&m.routersAt, 4 * n * k}} {
		if *b.to, err = dsv4mx.NewBuffer(m.device, b.bytes); err != nil {
			return err
		}
		m.opened = append(m.opened, *b.to)
	}
	workspace, err := dsv4mx.NewWorkspace(m.layer, n)
	if err != nil {
		return err
	}
	m.opened = append(m.opened, workspace)
	m.call, err = m.layer.Bind(m.weights, &dsv4mx.ApplyArgs{
		X:           m.xAt.Tensor(dsv4mx.DtypeBF16, n, h),
		TopKIDs:     m.idsAt.Tensor(dsv4mx.DtypeI32, n, k),
		TopKWeights: m.routersAt.Tensor(dsv4mx.DtypeF32, n, k),
		Out:         m.outAt.Tensor(dsv4mx.DtypeBF16, n, h),
		Workspace:   workspace,
	})
	if err == nil {
		m.opened = append(m.opened, m.call)
	}
	return err
}

// apply answers a batch and says how many tokens it had.
func (m *model) apply(batch []*request) (int, error) {
	h, k, n := m.desc.Hidden, m.desc.TopK, 0
	for _, r := range batch {
		copy(m.x[n*h:], r.x)
		copy(m.ids[n*k:], r.ids)
		copy(m.router[n*k:], r.weights)
		n += r.tokens
	}
	if err := dsv4mx.CopyIn(m.xAt, m.x[:n*h], 0); err != nil {
		return n, err
	}
	if err := dsv4mx.CopyIn(m.idsAt, m.ids[:n*k], 0); err != nil {
		return n, err
	}
	if err := dsv4mx.CopyIn(m.routersAt, m.router[:n*k], 0); err != nil {
		return n, err
	}
	if err := m.call.ApplyTokens(n, 0); err != nil {
		return n, err
	}
	if err := dsv4mx.CopyOut(m.outAt, m.out[:n*h], 0); err != nil {
		return n, err
	}
	at := 0
	for _, r := range batch {
		r.out = append(r.out, m.out[at*h:(at+r.tokens)*h]...)
		at += r.tokens
	}
	return n, nil
}

func (m *model) close() {
	for i := len(m.opened) - 1; i >= 0; i-- {
		m.opened[i].Close()
	}
	m.opened = nil
}
