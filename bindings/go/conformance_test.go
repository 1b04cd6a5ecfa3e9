// SPDX-License-Identifier: Apache-2.0

package dsv4mx

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/dsv4mx/dsv4mx/bindings/go/raw"
)

// TestConformance runs the cases that all bindings run, on the CPU and on a GPU where there is one.
func TestConformance(t *testing.T) {
	needLibrary(t)
	content, err := os.ReadFile("../cases.json")
	if err != nil {
		t.Skip("needs the repository: no bindings/cases.json")
	}
	var file struct{ Cases []conformanceCase }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	failing := 0
	for i := range file.Cases {
		if file.Cases[i].Expect.Status != "" {
			failing++
		}
	}
	if len(file.Cases) < 60 || failing < 20 {
		t.Fatalf("%d cases, %d of errors: expected at least 60 and 20", len(file.Cases), failing)
	}
	for _, device := range testDevices(t) {
		x, err := NewContext(&ContextOptions{Device: device})
		if err != nil {
			t.Fatal(err)
		}
		r := &conformanceRunner{context: x, cuda: device == DeviceCUDA, rows: map[string][]byte{}}
		for i := range file.Cases {
			c := &file.Cases[i]
			t.Run(device.String()+"/"+c.Name, func(t *testing.T) { r.test(t, c) })
		}
		x.Close()
	}
}

type conformanceRunner struct {
	context *Context
	cuda    bool
	rows    map[string][]byte // of cases that went well
}

func (r *conformanceRunner) test(t *testing.T, c *conformanceCase) {
	before := live.Load()
	run := &conformanceRun{runner: r, c: c}
	err := run.steps()
	run.close()
	if left := live.Load() - before; left > 0 {
		t.Errorf("%d handles are left", left)
	}
	if want := c.Expect.Status; want != "" {
		do := c.Expect.Do
		if r.cuda && c.Expect.CUDADo != "" {
			do = c.Expect.CUDADo
		}
		var failure *Error
		if !errors.As(err, &failure) || failure.Op != do || failure.Status.String() != want || !errors.Is(err, failure.Status) {
			t.Errorf("%v, wanted %s of %s", err, want, do)
		} else if failure.Msg == "" || strings.Contains(failure.Msg, "\n") {
			t.Errorf("the text is %q, wanted one line", failure.Msg)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(run.out)
	for _, fault := range c.judge(run.out, run.counts, hex.EncodeToString(sum[:]), r.rows) {
		t.Error(fault)
	}
	r.rows[c.Name] = run.out
}

// conformanceRun is a case while it runs.
type conformanceRun struct {
	runner  *conformanceRunner
	c       *conformanceCase
	data    *conformanceData
	layer   *Layer
	weights *Weights
	opened  []interface{ Close() error }
	out     []byte
	counts  []int64
}

func (run *conformanceRun) close() {
	for i := len(run.opened) - 1; i >= 0; i-- {
		run.opened[i].Close()
	}
}

func (run *conformanceRun) steps() error {
	rows := 0
	for _, step := range run.c.Steps {
		rows = max(rows, step.Tokens)
	}
	if run.c.Data != nil {
		run.data = makeData(run.c, min(rows, 1024))
	}
	for i := range run.c.Steps {
		if err := run.step(&run.c.Steps[i]); err != nil {
			return err
		}
	}
	return nil
}

func (run *conformanceRun) step(step *conformanceStep) (err error) {
	switch step.Do {
	case "context_create":
		return createContext(step.Fields)
	case "checkpoint_create":
		folder, err := os.MkdirTemp("", "dsv4mx")
		if err != nil {
			return err
		}
		defer os.RemoveAll(folder)
		path := filepath.Join(folder, "model.safetensors")
		if step.Bytes != nil {
			content, err := hex.DecodeString(*step.Bytes)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return err
			}
		}
		checkpoint, err := NewCheckpoint(context.Background(), path, nil)
		if err == nil {
			checkpoint.Close()
		}
		return err
	case "layer_create":
		return run.createLayer()
	case "weights_create":
		if run.weights, err = NewWeights(run.layer, nil); err == nil {
			run.opened = append(run.opened, run.weights)
		}
		return err
	case "weights_set":
		return run.set(step)
	case "weights_prepare":
		return run.weights.Prepare(context.Background(), nil)
	case "weights_reset":
		return run.weights.Reset()
	case "layer_set_placement":
		return run.layer.SetPlacement(step.Placement, 0)
	case "layer_apply":
		return run.apply(step)
	}
	return fmt.Errorf("unknown step %s", step.Do)
}

// assign sets fields of a struct by their names in C.
func assign(to any, fields map[string]any) error {
	target := reflect.ValueOf(to).Elem()
	for name, value := range fields {
		plain := strings.ReplaceAll(name, "_", "")
		field := target.FieldByNameFunc(func(s string) bool { return strings.EqualFold(s, plain) })
		if !field.IsValid() {
			return fmt.Errorf("no field %s", name)
		}
		if text, ok := value.(string); ok && text != "nan" && text != "inf" {
			code, err := valueOf(field, text)
			if err != nil {
				return err
			}
			field.SetInt(code)
			continue
		}
		switch field.Kind() {
		case reflect.Slice:
			for _, v := range value.([]any) {
				field.Set(reflect.Append(field, reflect.ValueOf(int32(v.(float64)))))
			}
		case reflect.Float32:
			number := map[any]float64{"nan": math.NaN(), "inf": math.Inf(1)}[value]
			if v, ok := value.(float64); ok {
				number = v
			}
			field.SetFloat(number)
		case reflect.Uint32:
			bits := map[string]LayerFlag{"BATCH_INVARIANT": LayerBatchInvariant, "CHECKED_IDS": LayerCheckedIDs, "PHYSICAL_IDS": LayerPhysicalIDs}
			for _, v := range value.([]any) {
				if bits[v.(string)] == 0 {
					return fmt.Errorf("unknown flag %v", v)
				}
				field.SetUint(field.Uint() | uint64(bits[v.(string)]))
			}
		case reflect.Uintptr:
			field.SetUint(uint64(value.(float64)))
		default:
			field.SetInt(int64(value.(float64)))
		}
	}
	return nil
}

// valueOf finds a value of an enum by the name that String gives.
func valueOf(field reflect.Value, text string) (int64, error) {
	probe := reflect.New(field.Type()).Elem()
	for code := range int64(64) {
		probe.SetInt(code)
		if s, ok := probe.Interface().(fmt.Stringer); ok && s.String() == text {
			return code, nil
		}
	}
	return 0, fmt.Errorf("%s has no value %s", field.Type(), text)
}

// split takes keys out that only the raw struct has.
func split(fields map[string]any, names ...string) (rest, taken map[string]any) {
	rest, taken = map[string]any{}, map[string]any{}
	for name, value := range fields {
		rest[name] = value
	}
	for _, name := range names {
		if value, ok := rest[name]; ok {
			taken[name] = value
			delete(rest, name)
		}
	}
	return rest, taken
}

func createContext(fields map[string]any) error {
	fields, odd := split(fields, "struct_size")
	if len(odd) == 0 {
		options := ContextOptions{}
		if err := assign(&options, fields); err != nil {
			return err
		}
		x, err := NewContext(&options)
		if err == nil {
			x.Close()
		}
		return err
	}
	lib, err := library()
	if err != nil {
		return err
	}
	desc := raw.NewContextDesc()
	if err := assign(&desc, odd); err != nil {
		return err
	}
	var handle raw.Context
	status, text := lib.ContextCreate(&desc, &handle)
	lib.ContextDestroy(handle)
	return fail("context_create", status, text)
}

func (run *conformanceRun) createLayer() error {
	fields, odd := split(run.c.Layer, "struct_size", "reserved")
	desc := LayerDesc{}
	if err := assign(&desc, fields); err != nil {
		return err
	}
	if len(odd) == 0 {
		layer, err := NewLayer(run.runner.context, desc)
		if err == nil {
			run.layer, run.opened = layer, append(run.opened, layer)
		}
		return err
	}
	c := converter{}
	defer c.done()
	r := desc.toRaw(&c)
	if size, ok := odd["struct_size"]; ok {
		r.StructSize = uintptr(size.(float64))
	}
	if reserved, ok := odd["reserved"]; ok {
		r.Reserved = uint32(reserved.(float64))
	}
	var handle raw.Layer
	status, text := run.runner.context.lib.LayerCreate(run.runner.context.handle(), r, &handle)
	return fail("layer_create", status, text)
}

func (run *conformanceRun) set(step *conformanceStep) error {
	var dtype Dtype
	code, err := valueOf(reflect.ValueOf(&dtype).Elem(), step.Dtype)
	if err != nil {
		return err
	}
	dtype = Dtype(code)
	content := run.data.source(step)
	tensor := OfBytes(content, dtype, step.Shape...)
	if size, wrong := tensor.extent(); wrong == "" && size != len(content) {
		// A wrong shape is the library's to refuse: the slice fits it.
		tensor = OfBytes(append(content, make([]byte, size)...)[:size], dtype, step.Shape...)
	}
	if step.Memory == "DEVICE" {
		buffer, err := Upload(run.runner.context, content, 0)
		if err != nil {
			return err
		}
		run.opened = append(run.opened, buffer)
		tensor = buffer.Tensor(dtype, step.Shape...)
	}
	expert := -1
	if step.Expert != nil {
		expert = *step.Expert
	}
	return run.weights.Set(context.Background(), step.Name, expert, tensor, nil)
}

// memory puts bytes into memory of the device. Its tensors are those of a caller's device memory, so that the library
// checks what the slices of Go would have checked here.
func (run *conformanceRun) memory(step *conformanceStep, name string, content []byte) (*Buffer, uintptr, error) {
	buffer, err := NewBuffer(run.runner.context, max(1, len(content)))
	if err != nil {
		return nil, 0, err
	}
	run.opened = append(run.opened, buffer)
	address := buffer.Address() + uintptr(step.Offset[name])
	for _, null := range step.Null {
		if null == name {
			address = 0
		}
	}
	return buffer, address, CopyIn(buffer, content, 0)
}

func (run *conformanceRun) apply(step *conformanceStep) error {
	d := run.data
	args := ApplyArgs{Multiprocessors: step.Multiprocessors, Flags: ApplyFlag(step.Flags)}
	put := func(to *Tensor, name string, content []byte, dtype Dtype, size, columns, stride int, fill byte) (*Buffer, error) {
		buffer, address, err := run.memory(step, name, d.strided(content, columns, stride, size, fill))
		*to = OnDevice(address, dtype, step.Tokens, columns)
		if stride != 0 {
			*to = to.Strided(stride, 1)
		}
		return buffer, err
	}
	dtypes := run.layer.dtypes
	if _, err := put(&args.X, "x", widened(d.x, false), dtypes.x, 2, d.hidden, step.XStride, 0xFF); err != nil {
		return err
	}
	var ids []byte
	idBytes := bitsOf(dtypes.ids) / 8
	for _, id := range d.ids {
		for b := range idBytes {
			ids = append(ids, byte(id>>(8*b)))
		}
	}
	if _, err := put(&args.TopKIDs, "topk_ids", ids, dtypes.ids, idBytes, d.topK, step.TopKIDsStride, 0); err != nil {
		return err
	}
	weightBytes := bitsOf(dtypes.weights) / 8
	router := widened(d.router, dtypes.weights == DtypeF32)
	if _, err := put(&args.TopKWeights, "topk_weights", router, dtypes.weights, weightBytes, d.topK, step.TopKWeightsStride, 0); err != nil {
		return err
	}
	outBytes := bitsOf(dtypes.out) / 8
	begin := bytes.Repeat([]byte{0x5A}, d.rows*d.hidden*outBytes)
	if step.Accumulate {
		args.Flags |= ApplyAccumulate
		begin = widened(d.out, dtypes.out == DtypeF32)
	}
	out, err := put(&args.Out, "out", begin, dtypes.out, outBytes, d.hidden, step.OutStride, 0x5A)
	if err != nil {
		return err
	}
	begin = d.strided(begin, d.hidden, step.OutStride, outBytes, 0x5A)
	if step.TokensDevice != nil {
		buffer, err := Upload(run.runner.context, []int32{int32(*step.TokensDevice)}, 0)
		if err != nil {
			return err
		}
		run.opened = append(run.opened, buffer)
		tensor := buffer.Tensor(DtypeI32, 1)
		args.TokensDevice = &tensor
	}
	counts := make([]int64, d.experts)
	var countBuffer *Buffer
	if step.Counts {
		if countBuffer, err = Upload(run.runner.context, counts, 0); err != nil {
			return err
		}
		run.opened = append(run.opened, countBuffer)
		tensor := countBuffer.Tensor(DtypeI64, d.experts)
		args.ExpertCounts = &tensor
	}
	if err := run.workspace(step, &args); err != nil {
		return err
	}
	call, err := run.bind(step, &args)
	if err != nil {
		return err
	}
	defer call.Close()
	if err := call.Apply(0); err != nil {
		return err
	}
	if err := run.runner.context.Synchronize(0); err != nil {
		return err
	}
	if countBuffer != nil {
		if run.counts, err = Download[int64](countBuffer, d.experts, 0); err != nil {
			return err
		}
	}
	end, err := Download[byte](out, len(begin), 0)
	if err != nil {
		return err
	}
	return run.keep(step, begin, end, outBytes)
}

func (run *conformanceRun) workspace(step *conformanceStep, args *ApplyArgs) error {
	size := 0
	if step.Tokens >= 0 && step.Tokens <= 131072 {
		info, err := run.layer.QueryWorkspace(step.Tokens)
		if err != nil {
			return err
		}
		size = info.Bytes
		if step.Workspace != "" {
			size = info.MinimumBytes
		}
	}
	buffer, err := NewBuffer(run.runner.context, max(1, size))
	if err != nil {
		return err
	}
	run.opened = append(run.opened, buffer)
	if step.Workspace == "short" {
		size--
	}
	if buffer, err = BufferAt(run.runner.context, buffer.Address(), size); err != nil {
		return err
	}
	run.opened = append(run.opened, buffer)
	args.Workspace = WorkspaceIn(buffer)
	return nil
}

// bind binds, and then sets what only the raw struct has.
func (run *conformanceRun) bind(step *conformanceStep, args *ApplyArgs) (*Call, error) {
	call, err := run.layer.Bind(run.weights, args)
	if err != nil {
		return nil, err
	}
	if step.StructSize != nil {
		call.args.StructSize = uintptr(*step.StructSize)
	}
	call.args.XScale = uintptr(step.Offset["x_scale"])
	return call, nil
}

// keep takes the computed rows, and checks that nothing else was written.
func (run *conformanceRun) keep(step *conformanceStep, begin, end []byte, size int) error {
	d := run.data
	computed := d.rows
	if step.TokensDevice != nil {
		computed = min(max(*step.TokensDevice, 0), d.rows)
	}
	width := max(step.OutStride, d.hidden) * size
	for row := range d.rows {
		used := d.hidden * size
		if row >= computed {
			used = 0
		}
		if !bytes.Equal(begin[row*width+used:(row+1)*width], end[row*width+used:(row+1)*width]) {
			return fmt.Errorf("apply wrote outside of row %d", row)
		}
		run.out = append(run.out, end[row*width:row*width+used]...)
	}
	return nil
}
