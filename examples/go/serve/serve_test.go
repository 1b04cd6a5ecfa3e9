// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

func needLibrary(t *testing.T) {
	t.Helper()
	if err := dsv4mx.Load(""); err != nil {
		if os.Getenv("DSV4MX_LIBRARY") != "" {
			t.Fatal(err)
		}
		t.Skip("needs the library: " + err.Error())
	}
}

// service is a server on a port of its own on this machine.
type service struct {
	*server
	model  *model
	url    string
	stop   context.CancelFunc
	done   chan error
	client *http.Client
}

func start(t *testing.T, c config) *service {
	t.Helper()
	needLibrary(t)
	m, err := newModel(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &service{newServer(m, c.queue), m, "http://" + listener.Addr().String(), stop, make(chan error, 1),
		&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}, Timeout: time.Minute}}
	go func() { s.done <- s.serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-s.done; err != nil {
			t.Error(err)
		}
		s.client.CloseIdleConnections()
		m.close()
	})
	return s
}

func small() config {
	return config{device: dsv4mx.DeviceCPU, threads: 1, maxTokens: 16, queue: 8,
		desc: dsv4mx.LayerDesc{Hidden: 64, Intermediate: 32, Experts: 4, TopK: 2, W13Order: dsv4mx.W13OrderGateUp}}
}

// randomRequest is a request and its body.
func randomRequest(d dsv4mx.LayerDesc, tokens int, r *rand.Rand) (*request, []byte) {
	q := &request{tokens: tokens}
	var body []byte
	for range tokens * d.Hidden {
		v := dsv4mx.NewBF16(float32(r.NormFloat64()))
		q.x, body = append(q.x, v), binary.LittleEndian.AppendUint16(body, uint16(v))
	}
	for range tokens {
		for _, id := range r.Perm(d.Experts)[:d.TopK] {
			q.ids, body = append(q.ids, int32(id)), binary.LittleEndian.AppendUint32(body, uint32(id))
		}
	}
	for range tokens * d.TopK {
		w := r.Float32()
		q.weights, body = append(q.weights, w), binary.LittleEndian.AppendUint32(body, math.Float32bits(w))
	}
	return q, body
}

func (s *service) post(body []byte) (int, []byte, error) {
	answer, err := s.client.Post(s.url+"/apply", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	out, err := io.ReadAll(answer.Body)
	return answer.StatusCode, out, err
}

// truth is what the fp64 reference of the CPU backend says to all requests.
func truth(t *testing.T, m *model, requests []*request) []dsv4mx.BF16 {
	t.Helper()
	desc := m.desc
	desc.Flags, desc.Experimental = 0, &dsv4mx.LayerExperimental{Oracle: dsv4mx.OracleTruth}
	oracle, err := dsv4mx.NewLayer(m.device, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer oracle.Close()
	var x []dsv4mx.BF16
	var ids []int32
	var weights []float32
	n := 0
	for _, q := range requests {
		x, ids, weights = append(x, q.x...), append(ids, q.ids...), append(weights, q.weights...)
		n += q.tokens
	}
	workspace, err := dsv4mx.NewWorkspace(oracle, n)
	if err != nil {
		t.Fatal(err)
	}
	defer workspace.Close()
	out := make([]dsv4mx.BF16, len(x))
	if err := oracle.Apply(m.weights, &dsv4mx.ApplyArgs{X: dsv4mx.Of(x, n, desc.Hidden), TopKIDs: dsv4mx.Of(ids, n, desc.TopK),
		TopKWeights: dsv4mx.Of(weights, n, desc.TopK), Out: dsv4mx.Of(out, n, desc.Hidden), Workspace: workspace}, 0); err != nil {
		t.Fatal(err)
	}
	return out
}

// relative is the relative L2 error of an answer.
func relative(answer []byte, want []dsv4mx.BF16) float64 {
	if len(answer) != 2*len(want) {
		return math.Inf(1)
	}
	difference, size := 0.0, 0.0
	for i, v := range want {
		w := float64(v.Float32())
		d := float64(dsv4mx.BF16(binary.LittleEndian.Uint16(answer[2*i:])).Float32()) - w
		difference += d * d
		size += w * w
	}
	return math.Sqrt(difference / size)
}

// TestThousand sends 1,000 requests at once and compares every answer with the reference.
func TestThousand(t *testing.T) {
	const clients = 1000
	c, _, err := parse([]string{"-device", "cpu", "-queue", fmt.Sprint(clients)})
	if err != nil {
		t.Fatal(err)
	}
	if c.desc.Hidden < 1024 || c.desc.Experts < 64 || c.desc.TopK != 6 {
		t.Fatalf("%+v is too small", c.desc)
	}
	s := start(t, c)
	r := rand.New(rand.NewPCG(1, 1))
	requests, bodies := make([]*request, clients), make([][]byte, clients)
	for i := range requests {
		requests[i], bodies[i] = randomRequest(c.desc, 1, r)
	}
	answers, took := make([][]byte, clients), make([]time.Duration, clients)
	var ready, wait sync.WaitGroup
	ready.Add(clients)
	begin := make(chan struct{})
	for i := range requests {
		wait.Go(func() {
			ready.Done()
			<-begin
			at := time.Now()
			code, out, err := s.post(bodies[i])
			if took[i] = time.Since(at); err != nil || code != http.StatusOK {
				t.Errorf("request %d: %d %v %q", i, code, err, out)
				return
			}
			answers[i] = out
		})
	}
	ready.Wait()
	at := time.Now()
	close(begin)
	wait.Wait()
	total := time.Since(at)

	h, worst := c.desc.Hidden, 0.0
	want := truth(t, s.model, requests)
	for i := range requests {
		if e := relative(answers[i], want[i*h:(i+1)*h]); !(e < 0.01) {
			t.Errorf("request %d: relative error %v", i, e)
		} else {
			worst = max(worst, e)
		}
	}
	slices.Sort(took)
	t.Logf("%d requests at once in %v (%.0f a second) in %d batches: p50 %v, p99 %v, worst error %.2e", clients,
		total.Round(time.Millisecond), clients/total.Seconds(), s.metrics.batches, took[clients/2].Round(time.Millisecond),
		took[clients*99/100].Round(time.Millisecond), worst)
	if s.metrics.batches >= clients/2 || s.metrics.requests != clients {
		t.Errorf("%d batches for %d requests: nothing was batched", s.metrics.batches, s.metrics.requests)
	}
}

// TestAlone has an answer be the same bits alone and among others.
func TestAlone(t *testing.T) {
	c := small()
	c.queue = 100
	s := start(t, c)
	r := rand.New(rand.NewPCG(2, 1))
	var wait sync.WaitGroup
	type pair struct{ alone, among []byte }
	pairs, bodies := make([]pair, 60), make([][]byte, 60)
	for i := range pairs {
		_, bodies[i] = randomRequest(c.desc, 1+i%5, r)
		_, pairs[i].alone, _ = s.post(bodies[i])
	}
	for i := range pairs {
		wait.Go(func() { _, pairs[i].among, _ = s.post(bodies[i]) })
	}
	wait.Wait()
	for i, p := range pairs {
		if len(p.alone) != 2*c.desc.Hidden*(1+i%5) || !bytes.Equal(p.alone, p.among) {
			t.Errorf("request %d: %d and %d bytes, other bits", i, len(p.alone), len(p.among))
		}
	}
}

// TestRefused sends what is wrong; the service goes on.
func TestRefused(t *testing.T) {
	c := small()
	s := start(t, c)
	r := rand.New(rand.NewPCG(3, 1))
	q, good := randomRequest(c.desc, 1, r)
	_, many := randomRequest(c.desc, c.maxTokens+1, r)
	_, full := randomRequest(c.desc, c.maxTokens, r)
	badID := append([]byte(nil), good...)
	badID[2*c.desc.Hidden] = byte(c.desc.Experts)
	for _, x := range []struct {
		what string
		body []byte
		code int
		text string
	}{
		{"nothing", nil, 400, "expected a multiple of 144"},
		{"a byte more", append(append([]byte(nil), good...), 0), 400, "145 bytes"},
		{"an id that is no expert", badID, 400, "id 4 of token 0, expected -1..3"},
		{"too many tokens", many, 413, "more than 16 tokens"},
		{"as many as fit", full, 200, ""},
		{"one", good, 200, ""},
	} {
		code, out, err := s.post(x.body)
		if err != nil || code != x.code || !strings.Contains(string(out), x.text) {
			t.Errorf("%s: %d %v %q, wanted %d with %q", x.what, code, err, out, x.code, x.text)
		}
	}
	_, out, _ := s.post(good)
	if e := relative(out, truth(t, s.model, []*request{q})); !(e < 0.01) {
		t.Errorf("relative error %v", e)
	}
	for path, want := range map[string]int{"/apply": 405, "/none": 404, "/health": 200, "/metrics": 200} {
		answer, err := s.client.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("GET %s: %d, wanted %d", path, answer.StatusCode, want)
		}
		switch path {
		case "/health":
			var health map[string]any
			if json.Unmarshal(text, &health) != nil || health["status"] != "ok" || health["hidden"] != 64.0 {
				t.Errorf("%s", text)
			}
		case "/metrics":
			for _, line := range []string{`dsv4mx_requests_total{code="200"} 3`, `dsv4mx_requests_total{code="400"} 3`,
				`dsv4mx_requests_total{code="413"} 1`, "dsv4mx_queue_length 0", "dsv4mx_tokens_total 18",
				`dsv4mx_latency_seconds_bucket{le="+Inf"} 3`} {
				if !strings.Contains(string(text), line+"\n") {
					t.Errorf("metrics lack %q:\n%s", line, text)
				}
			}
		}
	}
}

// TestQueue fills the queue of a batcher that does not run: beyond it is 503 at once, a client that goes is let go, and
// who waits is served when it runs.
func TestQueue(t *testing.T) {
	needLibrary(t)
	m, err := newModel(context.Background(), small())
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	b := newBatcher(m, 3, newMetrics())
	r := rand.New(rand.NewPCG(4, 1))
	gone, leave := context.WithCancel(context.Background())
	answers := make(chan error, 2)
	var waiting []*request
	for range 2 {
		q, _ := randomRequest(m.desc, 10, r) // two do not fit into one batch
		q.ctx = context.Background()
		waiting = append(waiting, q)
		go func() { answers <- b.submit(q) }()
	}
	left := make(chan error, 1)
	go func() {
		q, _ := randomRequest(m.desc, 1, r)
		q.ctx = gone
		left <- b.submit(q)
	}()
	for deadline := time.Now().Add(10 * time.Second); b.metrics.queued.Load() < 3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	q, _ := randomRequest(m.desc, 1, rand.New(rand.NewPCG(5, 1)))
	q.ctx = context.Background()
	if err := b.submit(q); !errors.Is(err, errFull) {
		t.Errorf("a fourth one: %v", err)
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("who left: %v", err)
	}
	go b.run()
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if len(waiting[0].out) != 10*64 || len(waiting[1].out) != 10*64 {
		t.Errorf("%d and %d values", len(waiting[0].out), len(waiting[1].out))
	}
	b.close()
	if b.metrics.batches != 2 || b.metrics.queued.Load() != 0 {
		t.Errorf("%d batches, %d queued", b.metrics.batches, b.metrics.queued.Load())
	}
	if err := b.submit(q); !errors.Is(err, errStopped) {
		t.Errorf("after the end: %v", err)
	}
}

// TestShutdown ends a service under load: whatever was accepted is answered, and the rest is refused.
func TestShutdown(t *testing.T) {
	c := small()
	c.queue = 200
	s := start(t, c)
	_, body := randomRequest(c.desc, 2, rand.New(rand.NewPCG(6, 1)))
	var wait sync.WaitGroup
	begun := make(chan struct{}, 1)
	for range 32 {
		wait.Go(func() {
			for i := 0; i < 200; i++ {
				code, out, err := s.post(body)
				if err != nil { // the connection was refused or closed before the request was accepted
					return
				}
				if code == http.StatusServiceUnavailable {
					return
				}
				if code != http.StatusOK || len(out) != 2*2*64 {
					t.Errorf("%d with %d bytes", code, len(out))
				}
				select {
				case begun <- struct{}{}:
				default:
				}
			}
		})
	}
	<-begun
	s.stop()
	select {
	case err := <-s.done:
		s.done <- err
	case <-time.After(30 * time.Second):
		t.Fatal("it did not end")
	}
	wait.Wait()
	if n := s.metrics.queued.Load(); n != 0 {
		t.Errorf("%d requests are left", n)
	}
	if s.metrics.answers[500] != 0 {
		t.Errorf("answers %v", s.metrics.answers)
	}
}

// TestRun goes through main's own path with a checkpoint that is not there, flags that are wrong, and a service that ends.
func TestRun(t *testing.T) {
	needLibrary(t)
	ctx, stop := context.WithCancel(context.Background())
	for _, args := range [][]string{{"-device", "tpu"}, {"-queue", "0"}, {"-max-tokens", "0"}, {"-checkpoint", "/none"},
		{"-hidden", "100"}, {"-listen", "127.0.0.1:-1"}} {
		if err := run(ctx, args, io.Discard); err == nil {
			t.Errorf("%v was accepted", args)
		}
	}
	var out bytes.Buffer
	stop()
	args := []string{"-listen", "127.0.0.1:0", "-device", "cpu", "-hidden", "64", "-intermediate", "32", "-experts", "6"}
	if err := run(context.WithoutCancel(ctx), append(args, "-listen", "127.0.0.1:-1"), &out); err == nil {
		t.Error("a port that is none was accepted")
	}
	later, end := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer end()
	if err := run(later, args, &out); err != nil || !strings.Contains(out.String(), "serving hidden 64, 6 experts") {
		t.Errorf("%v %q", err, out.String())
	}
}
