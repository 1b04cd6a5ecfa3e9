// SPDX-License-Identifier: Apache-2.0

// Serve answers calls of one MoE layer over HTTP: it batches what waits, bounds its queue, reports /health and /metrics,
// and ends cleanly on SIGINT and SIGTERM. server.go says what goes over the wire.
//
//	serve [-listen 127.0.0.1:8080] [-checkpoint FOLDER -layer 0] [-device auto|cpu|cuda] [-max-tokens 256] [-queue 1024]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func parse(args []string) (c config, listen string, err error) {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.StringVar(&listen, "listen", "127.0.0.1:8080", "address")
	flags.StringVar(&c.path, "checkpoint", "", "checkpoint; without it a random layer of the given sizes is served")
	flags.IntVar(&c.block, "layer", 0, "number of the layer in the checkpoint")
	flags.IntVar(&c.desc.Hidden, "hidden", 1024, "hidden size of the random layer")
	flags.IntVar(&c.desc.Intermediate, "intermediate", 256, "intermediate size of the random layer")
	flags.IntVar(&c.desc.Experts, "experts", 64, "experts of the random layer")
	flags.IntVar(&c.desc.TopK, "top-k", 6, "experts per token")
	clamp := flags.Float64("clamp", 10, "clamp limit of the activation")
	device := flags.String("device", "auto", "auto, cpu or cuda")
	flags.IntVar(&c.threads, "threads", 0, "threads of the CPU backend; 0: all")
	flags.IntVar(&c.maxTokens, "max-tokens", 256, "most tokens of a batch, and of a request")
	flags.IntVar(&c.queue, "queue", 1024, "requests that may wait; 503 beyond")
	if err := flags.Parse(args); err != nil {
		return c, "", err
	}
	known := map[string]dsv4mx.Device{"auto": dsv4mx.DeviceAuto, "cpu": dsv4mx.DeviceCPU, "cuda": dsv4mx.DeviceCUDA}
	var ok bool
	switch c.device, ok = known[*device]; {
	case !ok:
		return c, "", fmt.Errorf("what is -device %s? auto, cpu and cuda are known", *device)
	case c.maxTokens < 1 || c.queue < 1:
		return c, "", errors.New("-max-tokens and -queue have to be 1 or more")
	}
	c.desc.ClampLimit, c.desc.W13Order = float32(*clamp), dsv4mx.W13OrderGateUp
	return c, listen, nil
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	c, listen, err := parse(args)
	if err != nil {
		return err
	}
	m, err := newModel(ctx, c)
	if err != nil {
		return err
	}
	defer m.close()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	s := newServer(m, c.queue)
	fmt.Fprintf(out, "serving hidden %d, %d experts, top_k %d on http://%s\n", m.desc.Hidden, m.desc.Experts, m.desc.TopK, listener.Addr())
	return s.serve(ctx, listener)
}

// serve answers until ctx ends, then what has been accepted, and returns when all is done.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	web := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go s.batcher.run()
	defer s.batcher.close()
	go func() { failed <- web.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	s.stopping.Store(true)
	end, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return web.Shutdown(end)
}
