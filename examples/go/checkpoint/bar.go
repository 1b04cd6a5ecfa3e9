// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"

	dsv4mx "github.com/dsv4mx/dsv4mx/bindings/go"
)

// bar shows the progress of long calls on one line of a terminal; anything else sees nothing of it.
type bar struct {
	to    *os.File
	shown bool
}

func newBar(to *os.File) *bar {
	info, err := to.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 || os.Getenv("TERM") == "dumb" {
		return &bar{}
	}
	return &bar{to: to}
}

func (b *bar) show(stage dsv4mx.Stage, done, total int64) bool {
	if b.to != nil {
		b.shown = true
		if total > 0 {
			fmt.Fprintf(b.to, "\r\033[K%s %3d %%", stage, 100*done/total)
		} else {
			fmt.Fprintf(b.to, "\r\033[K%s", stage)
		}
	}
	return true
}

func (b *bar) end() {
	if b.shown {
		fmt.Fprint(b.to, "\r\033[K")
		b.shown = false
	}
}
