// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package raw

// Backend says how this program calls the library; there is none for this system.
const Backend = "none"

func dlopen(string) (uintptr, string) { return 0, "dsv4mx runs on Linux" }

func dlsym(uintptr, string) uintptr { return 0 }

func (l *Library) call(function, a, b, c, d, e, f uintptr) uintptr { return 0 }

func (l *Library) status(function, a, b, c, d, e, f uintptr) (Status, string) {
	return StatusUnsupported, "dsv4mx runs on Linux"
}

func callbackFunctions() Functions { return Functions{} }

// BoundApply is LayerApply with its arguments laid out once.
type BoundApply struct{}

// BindLayerApply lays the arguments of LayerApply out.
func (l *Library) BindLayerApply(layer Layer, weights Weights, args *ApplyArgs) *BoundApply {
	return &BoundApply{}
}

// Apply is LayerApply.
func (b *BoundApply) Apply(stream Stream) (Status, string) {
	return (*Library)(nil).status(0, 0, 0, 0, 0, 0, 0)
}
