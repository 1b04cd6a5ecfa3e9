// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"fmt"
	"math/bits"
	"unsafe"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// Element is a type of Go that a tensor can have. Other element types come as bytes, with OfBytes.
type Element interface {
	BF16 | float32 | float64 | int8 | uint8 | uint32 | int32 | int64
}

// Tensor is memory with an element type and a shape: a slice of Go (Of, OfBytes), a Buffer's memory (Buffer.Tensor), a
// caller's device memory (OnDevice), or a tensor of a checkpoint (Checkpoint.Tensor). The element type comes from the slice,
// so that an []int64 is never read as int32. A Tensor is a small value; it keeps what it refers to alive.
type Tensor struct {
	dtype   Dtype
	memory  Memory
	rank    int
	shape   [4]int
	stride  [4]int // all 0: contiguous
	slice   unsafe.Pointer
	address uintptr
	bytes   int     // of the slice or buffer; -1 where only the caller knows
	holder  *object // the buffer or checkpoint whose memory it is
	keep    any     // the same as its user sees it, kept from the collector
	err     string  // what was wrong when it was made, said when it is used
}

// Of is a slice of Go as a tensor of a shape, row-major.
func Of[T Element](slice []T, shape ...int) Tensor {
	t := made(dtypeOf[T](), shape)
	if len(slice) > 0 {
		t.slice = unsafe.Pointer(unsafe.SliceData(slice))
	}
	t.bytes = len(slice) * int(unsafe.Sizeof(*new(T)))
	return t
}

// OfBytes is host memory of any element type, e.g. DtypeE2M1 with a shape that counts values.
func OfBytes(bytes []byte, dtype Dtype, shape ...int) Tensor {
	t := made(dtype, shape)
	if len(bytes) > 0 {
		t.slice = unsafe.Pointer(unsafe.SliceData(bytes))
	}
	t.bytes = len(bytes)
	return t
}

// OnDevice is memory of the context's device at an address of the caller's, e.g. of a CUDA tensor of another library. Its
// size cannot be checked, and nothing keeps it alive.
func OnDevice(address uintptr, dtype Dtype, shape ...int) Tensor {
	t := made(dtype, shape)
	t.address, t.memory, t.bytes = address, MemoryDevice, -1
	return t
}

// Strided is the same memory with elements (of E2M1: bytes) between neighbours of each dimension.
func (t Tensor) Strided(strides ...int) Tensor {
	if len(strides) != t.rank {
		t.err = fmt.Sprintf("%d strides for a tensor of rank %d", len(strides), t.rank)
		return t
	}
	copy(t.stride[:], strides)
	return t
}

// Dtype is the element type.
func (t Tensor) Dtype() Dtype { return t.dtype }

// Shape is a copy of the shape.
func (t Tensor) Shape() []int { return append([]int(nil), t.shape[:t.rank]...) }

func made(dtype Dtype, shape []int) Tensor {
	t := Tensor{dtype: dtype, rank: len(shape)}
	if len(shape) > len(t.shape) {
		t.rank, t.err = 0, fmt.Sprintf("rank %d, expected 1..4", len(shape))
		return t
	}
	for _, n := range shape {
		if n < 0 {
			t.err = fmt.Sprintf("shape %v has a negative size", shape)
		}
	}
	copy(t.shape[:], shape)
	return t
}

func dtypeOf[T Element]() Dtype {
	switch any(*new(T)).(type) {
	case BF16:
		return DtypeBF16
	case float32:
		return DtypeF32
	case float64:
		return DtypeF64
	case int8:
		return DtypeI8
	case uint8:
		return DtypeU8
	case uint32:
		return DtypeU32
	case int32:
		return DtypeI32
	default:
		return DtypeI64
	}
}

// bitsOf is the size of an element; 0 if it is not known.
func bitsOf(dtype Dtype) int {
	switch dtype {
	case DtypeE2M1:
		return 4
	case DtypeI8, DtypeU8, DtypeE8M0, DtypeE4M3, DtypeE5M2:
		return 8
	case DtypeBF16, DtypeF16:
		return 16
	case DtypeF32, DtypeI32, DtypeU32:
		return 32
	case DtypeF64, DtypeI64:
		return 64
	}
	return 0
}

// extent is how many bytes the shape and strides reach over; what is wrong with them otherwise.
func (t *Tensor) extent() (int, string) {
	unit := bitsOf(t.dtype)
	if unit == 0 {
		return 0, fmt.Sprintf("dtype %s has no known size", t.dtype)
	}
	shape := t.shape
	if unit == 4 { // counted in values, laid out in bytes
		if t.rank > 0 {
			if shape[t.rank-1]%2 != 0 {
				return 0, fmt.Sprintf("shape %v has an odd number of E2M1 values in a row", t.Shape())
			}
			shape[t.rank-1] /= 2
		}
		unit = 8
	}
	elements, overflow := 1, false
	if t.stride == [4]int{} {
		for _, n := range shape[:t.rank] {
			elements = multiply(elements, n, &overflow)
		}
	} else {
		for i, n := range shape[:t.rank] {
			if n == 0 {
				return 0, ""
			}
			if t.stride[i] < 0 {
				return 0, fmt.Sprintf("strides %v, expected none below 0", t.stride[:t.rank])
			}
			elements += multiply(n-1, t.stride[i], &overflow)
			overflow = overflow || elements < 0
		}
	}
	if size := multiply(elements, unit/8, &overflow); !overflow {
		return size, ""
	}
	return 0, fmt.Sprintf("shape %v is larger than any memory", t.Shape())
}

func multiply(a, b int, overflow *bool) int {
	high, low := bits.Mul64(uint64(a), uint64(b))
	*overflow = *overflow || high != 0 || low > 1<<62
	return int(low)
}

// check says what is wrong with a tensor: "" if its memory holds its shape.
func (t *Tensor) check() string {
	if t.err != "" {
		return t.err
	}
	if t.bytes < 0 {
		return ""
	}
	need, wrong := t.extent()
	if wrong != "" {
		return wrong
	}
	exact := t.stride == [4]int{} && t.slice != nil && t.holder == nil
	if need > t.bytes || exact && need != t.bytes {
		return fmt.Sprintf("%d bytes of %s for shape %v, expected %d", t.bytes, t.dtype, t.Shape(), need)
	}
	return ""
}

// empty is what a tensor without elements points to: C refuses NULL.
var empty [32]uint64

// pointer pins the memory and gives its address.
func (t *Tensor) pointer(c *converter) uintptr {
	if t.slice == nil {
		if t.address == 0 && t.bytes == 0 {
			return (uintptr(unsafe.Pointer(&empty)) + 15) &^ 15
		}
		return t.address
	}
	c.pin(t.slice)
	return uintptr(t.slice)
}

// toRaw gives the C tensor; its memory is pinned.
func (t *Tensor) toRaw(c *converter, name string) *raw.Tensor {
	if wrong := t.check(); wrong != "" {
		c.refuse(ErrInvalidTensor, "%s: %s", name, wrong)
	}
	r := raw.NewTensor()
	r.Data = t.pointer(c)
	r.Dtype = t.dtype
	r.Memory = t.memory
	r.Rank = int32(t.rank)
	for i := range t.rank {
		r.Shape[i], r.Stride[i] = int64(t.shape[i]), int64(t.stride[i])
	}
	return &r
}
