// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"math"
	"strings"
	"testing"
)

// TestTensor has tensors that fit their memory and all that do not.
func TestTensor(t *testing.T) {
	f := make([]float32, 12)
	for _, c := range []struct {
		what   string
		tensor Tensor
		wrong  string
	}{
		{"whole", Of(f, 3, 4), ""},
		{"rank 4", Of(f, 1, 3, 2, 2), ""},
		{"scalar row", Of(f, 12), ""},
		{"empty", Of([]float32{}, 0, 4), ""},
		{"nil", Of[float32](nil, 3, 0), ""},
		{"columns", Of(f, 3, 2).Strided(4, 1), ""},
		{"transposed", Of(f, 4, 3).Strided(1, 4), ""},
		{"one row twice", Of(f, 2, 12).Strided(0, 1), ""},
		{"E2M1", OfBytes(make([]byte, 6), DtypeE2M1, 3, 4), ""},
		{"E2M1 rows", OfBytes(make([]byte, 7), DtypeE2M1, 3, 4).Strided(2, 1), ""},
		{"too short", Of(f, 3, 5), "48 bytes of F32 for shape [3 5], expected 60"},
		{"too long", Of(f, 3, 3), "expected 36"},
		{"beyond the end", Of(f, 3, 3).Strided(5, 1), "expected 52"},
		{"beyond by the last", Of(f, 4, 4).Strided(3, 1), "expected 52"},
		{"rank 5", Of(f, 1, 1, 1, 3, 4), "rank 5"},
		{"negative", Of(f, -3, -4), "negative"},
		{"negative stride", Of(f, 3, 4).Strided(-4, 1), "below 0"},
		{"strides", Of(f, 3, 4).Strided(4), "1 strides for a tensor of rank 2"},
		{"overflow", Of(f, math.MaxInt, 4), "larger than any memory"},
		{"overflow of strides", Of(f, 3, 4).Strided(math.MaxInt, 1), "larger than any memory"},
		{"E2M1 odd", OfBytes(make([]byte, 6), DtypeE2M1, 4, 3), "odd"},
		{"E2M1 short", OfBytes(make([]byte, 5), DtypeE2M1, 3, 4), "expected 6"},
		{"no size", OfBytes(make([]byte, 5), DtypeOther, 5), "OTHER has no known size"},
	} {
		got := c.tensor.check()
		if (got == "") != (c.wrong == "") || !strings.Contains(got, c.wrong) {
			t.Errorf("%s: %q, wanted %q", c.what, got, c.wrong)
		}
	}
	for got, want := range map[Dtype]Dtype{
		Of([]BF16{}).Dtype(): DtypeBF16, Of([]float32{}).Dtype(): DtypeF32, Of([]float64{}).Dtype(): DtypeF64,
		Of([]int8{}).Dtype(): DtypeI8, Of([]uint8{}).Dtype(): DtypeU8, Of([]uint32{}).Dtype(): DtypeU32,
		Of([]int32{}).Dtype(): DtypeI32, Of([]int64{}).Dtype(): DtypeI64,
	} {
		if got != want {
			t.Errorf("%s, wanted %s", got, want)
		}
	}
}
