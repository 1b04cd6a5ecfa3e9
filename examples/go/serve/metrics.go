// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// bounds are the upper ends of the latency histogram in seconds.
var bounds = [...]float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

// metrics are counters in the text form that Prometheus reads.
type metrics struct {
	queued atomic.Int64

	mutex    sync.Mutex
	answers  map[int]int64
	latency  [len(bounds) + 1]int64
	seconds  float64
	batches  int64
	requests int64
	tokens   int64
	busy     float64
}

func newMetrics() *metrics { return &metrics{answers: map[int]int64{}} }

// answer counts a request by its status; the latency only of those that were served.
func (m *metrics) answer(code int, took time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.answers[code]++
	if code != 200 {
		return
	}
	bucket := 0
	for bucket < len(bounds) && took.Seconds() > bounds[bucket] {
		bucket++
	}
	m.latency[bucket]++
	m.seconds += took.Seconds()
}

func (m *metrics) batch(requests, tokens int, took time.Duration) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.batches++
	m.requests += int64(requests)
	m.tokens += int64(tokens)
	m.busy += took.Seconds()
}

func (m *metrics) write(to io.Writer) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	fmt.Fprintln(to, "# TYPE dsv4mx_requests_total counter")
	for _, code := range []int{200, 400, 413, 499, 500, 503} {
		fmt.Fprintf(to, "dsv4mx_requests_total{code=\"%d\"} %d\n", code, m.answers[code])
	}
	fmt.Fprintf(to, "# TYPE dsv4mx_queue_length gauge\ndsv4mx_queue_length %d\n", m.queued.Load())
	fmt.Fprintf(to, "# TYPE dsv4mx_batches_total counter\ndsv4mx_batches_total %d\n", m.batches)
	fmt.Fprintf(to, "# TYPE dsv4mx_batched_requests_total counter\ndsv4mx_batched_requests_total %d\n", m.requests)
	fmt.Fprintf(to, "# TYPE dsv4mx_tokens_total counter\ndsv4mx_tokens_total %d\n", m.tokens)
	fmt.Fprintf(to, "# TYPE dsv4mx_apply_seconds_total counter\ndsv4mx_apply_seconds_total %g\n", m.busy)
	fmt.Fprintln(to, "# TYPE dsv4mx_latency_seconds histogram")
	count := int64(0)
	for i, n := range m.latency {
		count += n
		end := "+Inf"
		if i < len(bounds) {
			end = fmt.Sprint(bounds[i])
		}
		fmt.Fprintf(to, "dsv4mx_latency_seconds_bucket{le=\"%s\"} %d\n", end, count)
	}
	fmt.Fprintf(to, "dsv4mx_latency_seconds_sum %g\ndsv4mx_latency_seconds_count %d\n", m.seconds, count)
}
