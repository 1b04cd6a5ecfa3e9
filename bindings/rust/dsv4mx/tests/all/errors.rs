//! What goes wrong is told: status, operation, text.

use std::error::Error as _;

use dsv4mx::{
    Batch, Buffer, Checkpoint, Context, CpuIsa, Device, DeviceInfo, Dtype, Error, Layer, LayerDesc,
    Status, Tensor, Weights, Workspace, bf16,
};

use crate::common::*;

#[track_caller]
fn expect<T: std::fmt::Debug>(
    result: Result<T, Error>,
    status: Status,
    operation: &str,
    parts: &[&str],
) {
    let error = result.expect_err("a failure");
    assert_eq!((error.status(), error.operation()), (status, operation), "{error}");
    for part in parts {
        assert!(error.text().contains(part), "'{part}' is not in: {error}");
    }
    assert_eq!(error.to_string(), format!("{operation}: {status}: {}", error.text()));
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(format!("{error:#?}").contains("operation: "));
    assert!(error.source().is_none());
}

#[test]
fn descriptors() {
    let context = Context::cpu().unwrap();
    let refused = |desc: LayerDesc| Layer::new(&context, &desc);
    let create = "layer_create";
    expect(refused(LayerDesc::new(100, 32, 4, 2)), Status::UnsupportedShape, create, &["100"]);
    expect(refused(LayerDesc::new(64, 32, 4, 0)), Status::UnsupportedShape, create, &["top_k"]);
    expect(refused(desc().group_size(16)), Status::UnsupportedDtype, create, &["16"]);
    expect(refused(desc().x_dtype(Dtype::F16)), Status::UnsupportedDtype, create, &["F16"]);
    expect(refused(desc().clamp_limit(f32::NAN)), Status::InvalidArgument, create, &["clamp"]);
    expect(
        refused(desc().placement([0, 9]).experts_global(5)),
        Status::InvalidArgument,
        create,
        &["9"],
    );
    // What this crate has no name for reaches the library all the same.
    expect(refused(desc().w13_order(77.into())), Status::InvalidArgument, create, &["77"]);
}

#[test]
fn contexts() {
    let cpu = || Context::builder().device(Device::Cpu);
    expect(cpu().threads(-1).build(), Status::InvalidArgument, "context_create", &["-1"]);
    expect(cpu().cpu_isa(CpuIsa::from(99)).build(), Status::InvalidArgument, "context_create", &[]);
    expect(Context::cuda(-1), Status::InvalidArgument, "context_create", &["-1"]);
    expect(DeviceInfo::count(Device::Auto), Status::InvalidArgument, "device_get_count", &[]);
    expect(DeviceInfo::query(Device::Cpu, 5), Status::NoDevice, "device_query", &["5"]);
    let context = Context::cpu().unwrap();
    expect(
        Buffer::zeroed(&context, usize::MAX / 2).map(|_| ()),
        Status::OutOfMemory,
        "context_alloc",
        &[],
    );
    let mut buffer = Buffer::zeroed(&context, 8).unwrap();
    let copied = buffer.copy_from(&[0u8; 9]);
    expect(copied, Status::BufferTooSmall, "context_copy", &["9 bytes", "8"]);
    let mut data = [7i32; 2];
    buffer.copy_to(&mut data).unwrap();
    assert_eq!(data, [0, 0]);
}

#[test]
fn tensors_that_do_not_fit_their_slice() {
    let invalid = Status::InvalidTensor;
    expect(Tensor::new(&[0u8; 7], &[2, 4]), invalid, "tensor", &["7 elements", "[2, 4]"]);
    expect(Tensor::new(&[0u8; 7], &[usize::MAX, 4]), invalid, "tensor", &["too large"]);
    expect(Tensor::new(&[0u8; 7], &[1 << 62, 4]), invalid, "tensor", &["7 elements"]);
    expect(Tensor::new(&[0u8; 1], &[1, 1, 1, 1, 1]), invalid, "tensor", &["5 sizes"]);
    expect(Tensor::from_bytes(&[0; 4], Dtype::E2m1, &[3, 3]), invalid, "tensor", &["4 bytes"]);
    expect(Tensor::from_bytes(&[0; 4], Dtype::Bf16, &[2]), invalid, "tensor", &["BF16"]);
    expect(Tensor::strided(&[0f32; 9], &[3, 2], &[4, 1]), invalid, "tensor", &["outside", "9"]);
    expect(Tensor::strided(&[0f32; 9], &[3, 2], &[4]), invalid, "tensor", &["2 sizes and 1"]);
    assert!(Tensor::strided(&[0f32; 10], &[3, 2], &[4, 1]).is_ok());
    assert!(Tensor::from_bytes(&[0; 4], Dtype::E2m1, &[2, 4]).is_ok());
}

#[test]
fn weights_are_told_apart() {
    let layer = Layer::new(&Context::cpu().unwrap(), &desc()).unwrap();
    let mut weights = Weights::new(&layer).unwrap();
    let all = tensors(1);
    let (_, codes, shape) = &all[0];
    let tensor = Tensor::new(codes, shape).unwrap();
    expect(weights.set("w9_weight", &tensor), Status::NotFound, "weights_set", &["w9_weight"]);
    expect(weights.set("w13\0", &tensor), Status::InvalidArgument, "weights_set", &["zero byte"]);
    let wrong = Tensor::new(codes, &[EXPERTS, HIDDEN / 2, 2 * INTERMEDIATE]).unwrap();
    expect(
        weights.set("w13_weight", &wrong),
        Status::InvalidTensor,
        "weights_set",
        &["w13_weight"],
    );
    let nan = vec![255u8; all[1].1.len()];
    let scales = Tensor::new(&nan, &all[1].2).unwrap();
    let set = weights.set("w13_weight_scale", &scales);
    expect(set, Status::InvalidScale, "weights_set", &["255"]);
    expect(weights.prepare(), Status::NotFound, "weights_prepare", &["w"]);
    let missing = weights.query().unwrap().tensors_missing;
    for (name, bytes, shape) in &all {
        for expert in 0..EXPERTS {
            let size = bytes.len() / EXPERTS;
            let part = &bytes[expert * size..(expert + 1) * size];
            let tensor = Tensor::new(part, &shape[1..]).unwrap();
            weights.set_expert(name, expert, &tensor).unwrap();
        }
    }
    assert!(missing > 0 && weights.query().unwrap().tensors_missing == 0);
    let past = weights.set_expert("w2_weight", EXPERTS, &tensor);
    expect(past, Status::InvalidArgument, "weights_set", &["5"]);
    weights.prepare().unwrap();
    expect(weights.prepare(), Status::InvalidState, "weights_prepare", &[]);
    expect(weights.set("w13_weight", &tensor), Status::InvalidState, "weights_set", &[]);
}

#[test]
fn slices_that_do_not_fit_the_layer() {
    let (layer, weights) = layer();
    let mut workspace = layer.workspace(4).unwrap();
    let inputs = inputs(4, 3);
    let Inputs { x, ids, router_weights } = &inputs;
    let mut out = vec![bf16::ZERO; 4 * HIDDEN];
    let (invalid, apply) = (Status::InvalidTensor, "layer_apply");
    let mut run = |batch: Batch<'_, i32, f32, bf16>| layer.apply(&weights, batch, &mut workspace);

    let short = Batch::new(&x[1..], ids, router_weights, &mut out);
    expect(run(short), invalid, apply, &["x has 255 elements", "4 tokens need 256"]);
    let short = Batch::new(x, &ids[1..], router_weights, &mut out);
    expect(run(short), invalid, apply, &["topk_ids has 7 elements, 4 tokens need 8"]);
    let short = Batch::new(x, ids, &router_weights[..3], &mut out);
    expect(run(short), invalid, apply, &["topk_weights has 3 elements"]);
    let short = Batch::new(x, ids, router_weights, &mut out[..HIDDEN + 1]);
    expect(run(short), invalid, apply, &["1 tokens need"]);
    let more = Batch::new(x, ids, router_weights, &mut out).tokens(5);
    expect(run(more), invalid, apply, &["5 tokens need at least 320"]);
    let wide = Batch::new(x, ids, router_weights, &mut out).tokens(4).x_stride(HIDDEN + 8);
    expect(run(wide), invalid, apply, &["x has 256 elements, 4 tokens need at least 280"]);
    let huge = Batch::new(x, ids, router_weights, &mut out).tokens(4).x_stride(usize::MAX);
    expect(run(huge), invalid, apply, &["more than memory"]);
    let untold = Batch::new(x, ids, router_weights, &mut out).x_stride(HIDDEN);
    expect(run(untold), Status::InvalidArgument, apply, &["must be told"]);
    let mut counts = [0i64; EXPERTS + 1];
    let counted = Batch::new(x, ids, router_weights, &mut out).expert_counts(&mut counts);
    expect(run(counted), invalid, apply, &["expert_counts has 6", "expected 5"]);
    let odd = Batch::new(x, ids, router_weights, &mut out).tokens(2).x_stride(HIDDEN + 1);
    expect(run(odd), Status::Misaligned, apply, &["65"]);
}

#[test]
fn types_that_are_not_the_layers() {
    let (layer, weights) = layer();
    let mut workspace = layer.workspace(1).unwrap();
    let inputs = inputs(1, 3);
    let (mut y16, mut y32) = (vec![bf16::ZERO; HIDDEN], vec![0f32; HIDDEN]);
    let (invalid, apply) = (Status::InvalidTensor, "layer_apply");
    let long: Vec<i64> = inputs.ids.iter().map(|&id| id.into()).collect();
    let batch = Batch::new(&inputs.x, &long, &inputs.router_weights, &mut y16);
    let result = layer.apply(&weights, batch, &mut workspace);
    expect(result, invalid, apply, &["topk_ids is I64", "made for I32"]);
    let half = [bf16::ONE; TOP_K];
    let batch = Batch::new(&inputs.x, &inputs.ids, &half, &mut y16);
    let result = layer.apply(&weights, batch, &mut workspace);
    expect(result, invalid, apply, &["topk_weights is BF16", "made for F32"]);
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y32);
    let result = layer.apply(&weights, batch, &mut workspace);
    expect(result, invalid, apply, &["out is F32", "made for BF16"]);
}

#[test]
fn states_workspaces_and_ids() {
    let (layer, weights) = layer();
    let inputs = inputs(2, 3);
    let mut y = vec![bf16::ZERO; 2 * HIDDEN];
    let raw = Weights::new(&layer).unwrap();
    let mut workspace = layer.workspace(2).unwrap();
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    let result = layer.apply(&raw, batch, &mut workspace);
    expect(result, Status::InvalidState, "layer_apply", &[]);
    let mut small = Workspace::new(layer.context(), 16).unwrap();
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    let result = layer.apply(&weights, batch, &mut small);
    expect(result, Status::WorkspaceTooSmall, "layer_apply", &["16"]);
    let other = Layer::new(layer.context(), &LayerDesc::new(96, 32, 5, 2)).unwrap();
    let x = vec![bf16::ONE; 2 * 96];
    let mut wide = vec![bf16::ZERO; 2 * 96];
    let batch = Batch::new(&x, &inputs.ids, &inputs.router_weights, &mut wide);
    let mut workspace = other.workspace(2).unwrap();
    let result = other.apply(&weights, batch, &mut workspace);
    expect(result, Status::InvalidState, "layer_apply", &["prepared_id"]);

    let checked = Layer::new(layer.context(), &desc().checked_ids(true)).unwrap();
    let weights = crate::common::weights(&checked);
    let ids = [0, 5, 1, 2];
    let batch = Batch::new(&inputs.x, &ids, &inputs.router_weights, &mut y);
    let result = checked.apply(&weights, batch, &mut checked.workspace(2).unwrap());
    expect(result, Status::InvalidId, "layer_apply", &["5"]);
    let faults = checked.query_faults().unwrap();
    assert_eq!((faults.status, faults.invalid_ids), (Status::InvalidId, 1));
}

#[test]
fn files() {
    let none = Checkpoint::open("/nonexistent/model.safetensors");
    expect(none, Status::IoError, "checkpoint_create", &["/nonexistent/model.safetensors"]);
    expect(Checkpoint::open("a\0b"), Status::InvalidArgument, "checkpoint_create", &["zero byte"]);
}
