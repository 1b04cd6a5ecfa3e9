// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// Numbers and tensors of the conformance cases, as bindings/cases.json describes them ("about").

// conformanceCase is a case; steps are kept as they are.
type conformanceCase struct {
	Name  string
	Layer map[string]any
	Data  *struct {
		Seed       uint64
		ScaleLow   int    `json:"scale_low"`
		ScaleCount int    `json:"scale_count"`
		X          string `json:"x"`
		IDsLow     int    `json:"ids_low"`
		IDsHigh    int    `json:"ids_high"`
		IDsWide    bool   `json:"ids_wide"`
		Poke       [][3]any
	}
	Steps  []conformanceStep
	Expect struct {
		Do           string
		Status       string
		CUDADo       string `json:"cuda_do"`
		Probes       [][3]float64
		Tolerance    float64
		Sum          *float64
		AbsSum       float64 `json:"abs_sum"`
		SumTolerance float64 `json:"sum_tolerance"`
		SHA256       string  `json:"sha256"`
		SameBitsAs   string  `json:"same_bits_as"`
		Counts       []int64
	}
}

type conformanceStep struct {
	Do                string
	Fields            map[string]any
	Name              string
	Source            string
	Dtype             string
	Shape             []int
	Slot              *int
	Expert            *int
	Memory            string
	Placement         []int32
	Tokens            int
	XStride           int  `json:"x_stride"`
	TopKIDsStride     int  `json:"topk_ids_stride"`
	TopKWeightsStride int  `json:"topk_weights_stride"`
	OutStride         int  `json:"out_stride"`
	TokensDevice      *int `json:"tokens_device"`
	Accumulate        bool
	Workspace         string
	Multiprocessors   int
	Counts            bool
	StructSize        *int `json:"struct_size"`
	Null              []string
	Offset            map[string]int
	Flags             uint32
	Bytes             *string
}

func mix(z uint64) uint64 {
	z ^= z >> 30
	z *= 0xBF58476D1CE4E5B9
	z ^= z >> 27
	z *= 0x94D049BB133111EB
	return z ^ z>>31
}

// words gives the numbers of a stream by their index.
func words(seed, stream uint64) func(i int) uint64 {
	base := mix(seed<<8 | stream)
	return func(i int) uint64 { return mix(base + uint64(i+1)*0x9E3779B97F4A7C15) }
}

func streamBytes(seed, stream uint64, count int) []byte {
	word, out := words(seed, stream), make([]byte, (count+7)/8*8)
	for i := 0; i < len(out)/8; i++ {
		binary.LittleEndian.PutUint64(out[8*i:], word(i))
	}
	return out[:count]
}

func streamBF16(seed, stream, exponent uint64, count int) []BF16 {
	word, out := words(seed, stream), make([]BF16, count)
	for i := range out {
		w := word(i)
		out[i] = BF16(w&1<<15 | (exponent+w>>1&3)<<7 | w>>3&127)
	}
	return out
}

// number is a field of a case that may be left out.
func (c *conformanceCase) number(name string, otherwise int) int {
	if value, ok := c.Layer[name].(float64); ok {
		return int(value)
	}
	return otherwise
}

// conformanceData are the tensors of a case: codes, scales and biases of gate, up and down, and those of apply.
type conformanceData struct {
	c                                         *conformanceCase
	hidden, intermediate, experts, topK, rows int
	bytes                                     map[string][]byte // codes and scales
	biases                                    map[string][]BF16
	x, router, out                            []BF16
	ids                                       []int64
}

func makeData(c *conformanceCase, rows int) *conformanceData {
	d := &conformanceData{c: c, rows: rows, bytes: map[string][]byte{}, biases: map[string][]BF16{}}
	d.hidden, d.experts, d.topK = c.number("hidden", 0), c.number("experts", 0), c.number("top_k", 0)
	d.intermediate = c.number("intermediate_count", 0)
	if d.intermediate == 0 {
		d.intermediate = c.number("intermediate", 0) / max(1, c.number("tp_size", 1))
	}
	seed := c.Data.Seed
	for i, part := range []string{"gate", "up", "down"} {
		n, k := d.sizes(part)
		d.bytes[part+"_codes"] = streamBytes(seed, uint64(1+i), d.experts*n*k/2)
		scales := streamBytes(seed, uint64(4+i), d.experts*n*k/32)
		for j, b := range scales {
			scales[j] = byte(c.Data.ScaleLow + int(b)%c.Data.ScaleCount)
		}
		d.bytes[part+"_scales"] = scales
		d.biases[part] = streamBF16(seed, uint64(7+i), 122, d.experts*n)
	}
	for _, p := range c.Data.Poke {
		d.bytes[p[0].(string)][int(p[1].(float64))] = byte(p[2].(float64))
	}
	d.x = streamBF16(seed, 10, 124, rows*d.hidden)
	if c.Data.X == "one_hot" {
		clear(d.x)
		for row, word := 0, words(seed, 10); row < rows; row++ {
			d.x[row*d.hidden+int(word(row)%uint64(d.hidden))] = 0x3F80
		}
	}
	id, router := words(seed, 11), words(seed, 12)
	for i := range rows * d.topK {
		w := id(i)
		value := int64(c.Data.IDsLow) + int64(w%uint64(c.Data.IDsHigh-c.Data.IDsLow))
		if c.Data.IDsWide && w>>60 == 0 {
			value += 1 << 32
		}
		d.ids = append(d.ids, value)
		d.router = append(d.router, BF16(0x3F00|router(i)&127))
	}
	d.out = streamBF16(seed, 13, 124, rows*d.hidden)
	return d
}

// sizes are the rows and K of a part.
func (d *conformanceData) sizes(part string) (int, int) {
	if part == "down" {
		return d.hidden, d.intermediate
	}
	return d.intermediate, d.hidden
}

// joined puts gate and up together, `row` elements to a row, in the layer's order.
func joined[T any](d *conformanceData, gate, up []T, row int) []T {
	out := make([]T, 0, 2*len(gate))
	size := d.intermediate * row
	for e := range d.experts {
		g, u := gate[e*size:(e+1)*size], up[e*size:(e+1)*size]
		switch d.c.Layer["w13_order"] {
		case "INTERLEAVED":
			for i := range d.intermediate {
				out = append(append(out, g[i*row:(i+1)*row]...), u[i*row:(i+1)*row]...)
			}
		case "UP_GATE":
			out = append(append(out, u...), g...)
		default:
			out = append(append(out, g...), u...)
		}
	}
	return out
}

func sliced[T any](d *conformanceData, values []T, slot *int) []T {
	if slot == nil {
		return values
	}
	size := len(values) / d.experts
	return values[*slot*size : (*slot+1)*size]
}

// source is the tensor of a set step as bytes.
func (d *conformanceData) source(step *conformanceStep) []byte {
	name, kind, _ := strings.Cut(step.Source, "_")
	part := map[string]string{"w1": "gate", "w3": "up", "w2": "down"}[name]
	if kind == "bias" {
		values := d.biases[part]
		if part == "" {
			values = joined(d, d.biases["gate"], d.biases["up"], 1)
		}
		return widened(sliced(d, values, step.Slot), step.Dtype == "F32")
	}
	suffix, per := "_codes", 2
	if kind == "scale" {
		suffix, per = "_scales", 32
	}
	values := d.bytes[part+suffix]
	if part == "" {
		values = joined(d, d.bytes["gate"+suffix], d.bytes["up"+suffix], d.hidden/per)
	}
	out := append([]byte(nil), sliced(d, values, step.Slot)...)
	switch {
	case kind == "" && d.c.Layer["nibble_order"] == "HIGH_FIRST":
		for i, b := range out {
			out[i] = b>>4 | b<<4
		}
	case kind == "scale" && (step.Dtype == "F32" || step.Dtype == "BF16"):
		numbers := make([]BF16, len(out))
		for i, b := range out {
			numbers[i] = BF16(b) << 7
		}
		return widened(numbers, step.Dtype == "F32")
	}
	return out
}

// widened is bf16 as bytes, or as bytes of float32.
func widened(values []BF16, wide bool) []byte {
	var out []byte
	for _, v := range values {
		if wide {
			out = binary.LittleEndian.AppendUint32(out, uint32(v)<<16)
		} else {
			out = binary.LittleEndian.AppendUint16(out, uint16(v))
		}
	}
	return out
}

// strided lays rows of `columns` elements of `size` bytes out with a stride; gaps hold the byte `fill`.
func (d *conformanceData) strided(values []byte, columns, stride, size int, fill byte) []byte {
	width := max(stride, columns)
	out := make([]byte, d.rows*width*size)
	for i := range out {
		out[i] = fill
	}
	for row := range d.rows {
		copy(out[row*width*size:], values[row*columns*size:(row+1)*columns*size])
	}
	return out
}

// judge says what is wrong with a result: the computed rows as bytes. others are those of earlier cases.
func (c *conformanceCase) judge(rows []byte, counts []int64, sum string, others map[string][]byte) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	value := func(i int) float64 { return float64(BF16(binary.LittleEndian.Uint16(rows[2*i:])).Float32()) }
	size := 2
	if c.Layer["out_dtype"] == "F32" {
		value = func(i int) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(rows[4*i:]))) }
		size = 4
	}
	for _, p := range c.Expect.Probes {
		if got := value(int(p[0])*c.number("hidden", 0) + int(p[1])); !(math.Abs(got-p[2]) <= c.Expect.Tolerance) {
			fault("out[%v][%v] is %v, wanted %v within %v", p[0], p[1], got, p[2], c.Expect.Tolerance)
		}
	}
	if c.Expect.Sum != nil {
		total, absolute := 0.0, 0.0
		for i := range len(rows) / size {
			total += value(i)
			absolute += math.Abs(value(i))
		}
		if !(math.Abs(total-*c.Expect.Sum) <= c.Expect.SumTolerance) || !(math.Abs(absolute-c.Expect.AbsSum) <= c.Expect.SumTolerance) {
			fault("sums are %v and %v, wanted %v and %v within %v", total, absolute, *c.Expect.Sum, c.Expect.AbsSum, c.Expect.SumTolerance)
		}
	}
	if c.Expect.SHA256 != "" && sum != c.Expect.SHA256 {
		fault("sha256 is %s, wanted %s", sum, c.Expect.SHA256)
	}
	if name := c.Expect.SameBitsAs; name != "" {
		other, ok := others[name]
		if !ok || len(other) < len(rows) || string(other[:len(rows)]) != string(rows) {
			fault("differs from %s (there: %t)", name, ok)
		}
	}
	if c.Expect.Counts != nil && fmt.Sprint(c.Expect.Counts) != fmt.Sprint(counts) {
		fault("counts are %v, wanted %v", counts, c.Expect.Counts)
	}
	return faults
}
