// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"math"
	"testing"
)

// TestBF16 rounds every bfloat16, what lies between neighbours, and what is not a number.
func TestBF16(t *testing.T) {
	for bits := range 1 << 16 {
		b := BF16(bits)
		v := b.Float32()
		if v != v {
			if back := NewBF16(v).Float32(); back == back {
				t.Fatalf("%#x: a NaN became %v", bits, back)
			}
			continue
		}
		if back := NewBF16(v); back != b {
			t.Fatalf("%#x came back as %#x", bits, back)
		}
		if math.IsInf(float64(v), 0) {
			continue
		}
		low := math.Float32bits(v)
		for _, c := range []struct {
			add  uint32
			want BF16
		}{{0x7fff, b}, {0x8001, b + 1}, {0x8000, b + b&1}} {
			if got := NewBF16(math.Float32frombits(low + c.add)); got != c.want {
				t.Fatalf("%#x + %#x became %#x, wanted %#x", low, c.add, got, c.want)
			}
		}
	}
	// A NaN whose upper half alone would be an infinity.
	if v := NewBF16(math.Float32frombits(0x7f800001)).Float32(); v == v {
		t.Errorf("a NaN became %v", v)
	}
	if got := FromBF16(ToBF16([]float32{1, -2.5, 0})); got[0] != 1 || got[1] != -2.5 || got[2] != 0 {
		t.Errorf("%v", got)
	}
}
