// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import "math"

// BF16 is a bfloat16 by its bits: the upper half of a float32.
type BF16 uint16

// NewBF16 rounds to the nearest bfloat16, ties to even; a NaN stays one.
func NewBF16(value float32) BF16 {
	bits := math.Float32bits(value)
	if value != value {
		return BF16(bits>>16 | 0x40) // quiet, so that the cut cannot make an infinity of it
	}
	return BF16((bits + 0x7fff + bits>>16&1) >> 16)
}

// Float32 is the same number as a float32.
func (b BF16) Float32() float32 { return math.Float32frombits(uint32(b) << 16) }

// ToBF16 rounds every number.
func ToBF16(values []float32) []BF16 {
	out := make([]BF16, len(values))
	for i, v := range values {
		out[i] = NewBF16(v)
	}
	return out
}

// FromBF16 widens every number.
func FromBF16(values []BF16) []float32 {
	out := make([]float32, len(values))
	for i, v := range values {
		out[i] = v.Float32()
	}
	return out
}
