// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// server answers over HTTP:
//
//	POST /apply    x bf16 [tokens, hidden], ids int32 [tokens, top_k], router weights float32 [tokens, top_k], one after the
//	               other, little-endian; the number of tokens follows from the length. The answer is bf16 [tokens, hidden].
//	               503 with Retry-After where the queue is full.
//	GET  /health   200 with the layer's sizes, 503 while shutting down
//	GET  /metrics  counters, for Prometheus
type server struct {
	batcher  *batcher
	metrics  *metrics
	perToken int // bytes
	stopping atomic.Bool
}

func newServer(m *model, queue int) *server {
	metrics := newMetrics()
	return &server{batcher: newBatcher(m, queue, metrics), metrics: metrics, perToken: 2*m.desc.Hidden + 8*m.desc.TopK}
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apply", s.apply)
	mux.HandleFunc("GET /health", s.health)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		s.metrics.write(w)
	})
	return mux
}

func (s *server) health(w http.ResponseWriter, _ *http.Request) {
	status, code := "ok", http.StatusOK
	if s.stopping.Load() {
		status, code = "stopping", http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	d := s.batcher.model.desc
	json.NewEncoder(w).Encode(map[string]any{"status": status, "hidden": d.Hidden, "experts": d.Experts, "top_k": d.TopK,
		"max_tokens": s.batcher.model.maxTokens})
}

func (s *server) apply(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	code, text, out := s.answer(w, r)
	s.metrics.answer(code, time.Since(start))
	switch {
	case code == http.StatusOK:
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Write(out)
	case code == http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
		fallthrough
	default:
		http.Error(w, text, code)
	}
}

// answer gives the status and the body of one request.
func (s *server) answer(w http.ResponseWriter, r *http.Request) (int, string, []byte) {
	most := s.batcher.model.maxTokens * s.perToken
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most)))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d tokens in one request", s.batcher.model.maxTokens), nil
	case err != nil:
		return http.StatusBadRequest, err.Error(), nil
	case len(body) == 0 || len(body)%s.perToken != 0:
		return http.StatusBadRequest, fmt.Sprintf("%d bytes, expected a multiple of %d, the bytes of a token", len(body), s.perToken), nil
	}
	request, text := s.parse(body)
	if text != "" {
		return http.StatusBadRequest, text, nil
	}
	request.ctx = r.Context()
	switch err := s.batcher.submit(request); {
	case errors.Is(err, errFull), errors.Is(err, errStopped):
		return http.StatusServiceUnavailable, err.Error(), nil
	case err != nil && request.ctx.Err() != nil:
		return 499, err.Error(), nil // the client has gone; nobody reads it
	case err != nil:
		return http.StatusInternalServerError, err.Error(), nil
	}
	out := make([]byte, 0, 2*len(request.out))
	for _, v := range request.out {
		out = binary.LittleEndian.AppendUint16(out, uint16(v))
	}
	return http.StatusOK, "", out
}

// parse takes a body apart. An id that is no expert is the client's mistake, not the batch's.
func (s *server) parse(body []byte) (*request, string) {
	d := s.batcher.model.desc
	n := len(body) / s.perToken
	r := &request{tokens: n, x: make([]dsv4mx.BF16, n*d.Hidden), ids: make([]int32, n*d.TopK), weights: make([]float32, n*d.TopK)}
	for i := range r.x {
		r.x[i] = dsv4mx.BF16(binary.LittleEndian.Uint16(body[2*i:]))
	}
	body = body[2*len(r.x):]
	for i := range r.ids {
		r.ids[i] = int32(binary.LittleEndian.Uint32(body[4*i:]))
		if r.ids[i] < -1 || int(r.ids[i]) >= d.Experts {
			return nil, fmt.Sprintf("id %d of token %d, expected -1..%d", r.ids[i], i/d.TopK, d.Experts-1)
		}
	}
	body = body[4*len(r.ids):]
	for i := range r.weights {
		r.weights[i] = math.Float32frombits(binary.LittleEndian.Uint32(body[4*i:]))
	}
	return r, ""
}
