//! Results of every way to apply a layer, against the fp64 reference.

use dsv4mx::experimental::Oracle;
use dsv4mx::{
    Activation, Batch, Buffer, Context, Device, DeviceBatch, DeviceInfo, Dtype, Layer, Stream,
    Workspace, bf16,
};

use crate::common::*;

const LIMIT: f64 = 3e-3;

fn truth(inputs: &Inputs, tokens: usize) -> Vec<f32> {
    let desc = desc().oracle(Oracle::Truth).out_dtype(Dtype::F32);
    let layer = Layer::new(&Context::cpu().unwrap(), &desc).unwrap();
    let weights = weights(&layer);
    let mut y = vec![0f32; tokens * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(&weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    assert!(y.iter().any(|&v| v != 0.0));
    y
}

fn apply(layer: &Layer, weights: &dsv4mx::Weights, inputs: &Inputs, tokens: usize) -> Vec<bf16> {
    let mut y = vec![bf16::NAN; tokens * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    y
}

#[test]
fn slices_give_the_layer() {
    let (layer, weights) = layer();
    for tokens in [1, 3, 8, 33] {
        let inputs = inputs(tokens, 7);
        let y = apply(&layer, &weights, &inputs, tokens);
        let error = relative_error(&floats(&y), &truth(&inputs, tokens));
        assert!(error < LIMIT, "{tokens} tokens: {error:e}");
        assert_eq!(y, apply(&layer, &weights, &inputs, tokens));
    }
}

#[test]
fn other_types_are_taken_from_the_slices() {
    let tokens = 4;
    let inputs = inputs(tokens, 8);
    let desc = desc().ids_dtype(Dtype::I64).router_weight_dtype(Dtype::Bf16).out_dtype(Dtype::F32);
    let layer = Layer::new(&Context::cpu().unwrap(), &desc).unwrap();
    let weights = weights(&layer);
    let ids: Vec<i64> = inputs.ids.iter().map(|&id| id.into()).collect();
    let router_weights: Vec<bf16> =
        inputs.router_weights.iter().map(|&w| bf16::from_f32(w)).collect();
    let mut y = vec![0f32; tokens * HIDDEN];
    let batch = Batch::new(&inputs.x, &ids, &router_weights, &mut y);
    layer.apply(&weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    let rounded = Inputs {
        x: inputs.x.clone(),
        ids: inputs.ids.clone(),
        router_weights: router_weights.iter().map(|w| w.to_f32()).collect(),
    };
    assert!(relative_error(&y, &truth(&rounded, tokens)) < LIMIT);
}

#[test]
fn a_bound_call_runs_again() {
    let (layer, weights) = layer();
    let inputs = inputs(3, 9);
    let expected = apply(&layer, &weights, &inputs, 3);
    let mut workspace = layer.workspace(3).unwrap();
    let mut y = vec![bf16::ZERO; 3 * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    let mut bound = layer.bind(&weights, batch, &mut workspace).unwrap();
    bound.run().unwrap();
    bound.run().unwrap();
    assert_eq!(y, expected);
}

#[test]
fn rows_may_lie_apart() {
    let (layer, weights) = layer();
    let tokens = 3;
    let inputs = inputs(tokens, 10);
    let expected = apply(&layer, &weights, &inputs, tokens);
    let spread = |rows: &[bf16], stride: usize| {
        let mut apart = vec![bf16::NAN; (tokens - 1) * stride + HIDDEN];
        for (to, from) in apart.chunks_mut(stride).zip(rows.chunks(HIDDEN)) {
            to[..HIDDEN].copy_from_slice(from);
        }
        apart
    };
    let x = spread(&inputs.x, HIDDEN + 8);
    let mut ids = vec![-1; tokens * (TOP_K + 3)];
    for (to, from) in ids.chunks_mut(TOP_K + 3).zip(inputs.ids.chunks(TOP_K)) {
        to[..TOP_K].copy_from_slice(from);
    }
    let untouched = bf16::from_f32(123.0);
    let mut y = vec![untouched; tokens * (HIDDEN + 16)];
    let batch = Batch::new(&x, &ids, &inputs.router_weights, &mut y)
        .tokens(tokens)
        .x_stride(HIDDEN + 8)
        .topk_ids_stride(TOP_K + 3)
        .out_stride(HIDDEN + 16);
    layer.apply(&weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    for (row, expected) in y.chunks(HIDDEN + 16).zip(expected.chunks(HIDDEN)) {
        assert_eq!(&row[..HIDDEN], expected);
        assert!(row[HIDDEN..].iter().all(|&v| v == untouched));
    }
}

#[test]
fn adding_and_counting() {
    let (layer, weights) = layer();
    let tokens = 6;
    let inputs = inputs(tokens, 11);
    let once = apply(&layer, &weights, &inputs, tokens);
    let mut y = once.clone();
    let mut counts = vec![1i64; EXPERTS];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y)
        .accumulate()
        .expert_counts(&mut counts);
    layer.apply(&weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    let mut expected = vec![1i64; EXPERTS];
    for &id in &inputs.ids {
        expected[id as usize] += 1;
    }
    assert_eq!(counts, expected);
    let twice: Vec<f32> = once.iter().map(|y| 2.0 * y.to_f32()).collect();
    assert!(relative_error(&floats(&y), &twice) < 4e-3);
}

#[test]
fn no_tokens_is_legal() {
    let (layer, weights) = layer();
    let mut workspace = layer.workspace(0).unwrap();
    let batch = Batch::new(&[], &[0i32; 0], &[0f32; 0], &mut [] as &mut [bf16]);
    layer.apply(&weights, batch, &mut workspace).unwrap();
}

#[test]
fn a_small_workspace_gives_the_same_bits() {
    let (layer, weights) = layer();
    let tokens = 40;
    let inputs = inputs(tokens, 12);
    let expected = apply(&layer, &weights, &inputs, tokens);
    let need = layer.query_workspace(tokens).unwrap();
    assert!(need.minimum_bytes <= need.bytes && need.alignment.is_power_of_two());
    let mut workspace = Workspace::new(layer.context(), need.minimum_bytes).unwrap();
    let mut y = vec![bf16::ZERO; tokens * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(&weights, batch, &mut workspace).unwrap();
    assert_eq!(y, expected);
}

#[test]
fn device_pointers_give_the_same_bits() {
    // On a GPU where there is one, with buffers of the library: no CUDA crate.
    let context = Context::new().unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    let weights = weights(&layer);
    let tokens = 5;
    let inputs = inputs(tokens, 13);
    let x = Buffer::from_slice(&context, &inputs.x).unwrap();
    let ids = Buffer::from_slice(&context, &inputs.ids).unwrap();
    let router_weights = Buffer::from_slice(&context, &inputs.router_weights).unwrap();
    let mut out = Buffer::zeroed(&context, 2 * tokens * HIDDEN).unwrap();
    let mut workspace = layer.workspace(tokens).unwrap();
    let batch = DeviceBatch::new(
        tokens,
        x.as_ptr(),
        ids.as_ptr(),
        router_weights.as_ptr(),
        out.as_mut_ptr(),
    )
    .workspace(workspace.as_mut_ptr(), workspace.bytes());
    let mut y = vec![bf16::ZERO; tokens * HIDDEN];
    // SAFETY: buffers of the context, of the layer's types and sizes, all of which outlive the wait in copy_to.
    unsafe { layer.apply_device(&weights, &batch, Stream::DEFAULT).unwrap() };
    context.synchronize(Stream::DEFAULT).unwrap();
    out.copy_to(&mut y).unwrap();
    assert!(relative_error(&floats(&y), &truth(&inputs, tokens)) < LIMIT);
    if context.device() == Device::Cpu {
        assert_eq!(y, apply(&layer, &weights, &inputs, tokens));
    }
}

#[test]
fn activations_differ() {
    let inputs = inputs(2, 14);
    let run = |activation: Activation, clamp: f32| {
        let desc = desc().activation(activation).clamp_limit(clamp);
        let layer = Layer::new(&Context::cpu().unwrap(), &desc).unwrap();
        apply(&layer, &weights(&layer), &inputs, 2)
    };
    let swiglu = run(Activation::Swiglu, 10.0);
    assert_eq!(swiglu, run(Activation::Gated { alpha: 1.0, beta: 0.0 }, 10.0));
    let gpt_oss = run(Activation::SwigluGptoss, 10.0);
    assert_ne!(swiglu, gpt_oss);
    assert_eq!(gpt_oss, run(Activation::Gated { alpha: 1.702, beta: 1.0 }, 10.0));
    assert_ne!(swiglu, run(Activation::Situ { beta: 2.0, linear_beta: 3.0 }, 0.0));
}

#[test]
fn queries() {
    let (layer, weights) = layer();
    let info = layer.query().unwrap();
    assert_eq!((info.hidden, info.intermediate), (HIDDEN as i32, INTERMEDIATE as i32));
    assert_eq!(
        (info.experts, info.top_k, info.device),
        (EXPERTS as i32, TOP_K as i32, Device::Cpu)
    );
    assert!(info.backend.starts_with("cpu "), "{}", info.backend);
    assert!(!layer.query_plan(Some(&weights), 8).unwrap().is_empty());
    assert!(!layer.query_plan(None, 8).unwrap().is_empty());
    let prepared = weights.query().unwrap();
    assert_eq!(prepared.state, dsv4mx::WeightsState::Prepared);
    assert_eq!((prepared.tensors_missing, prepared.bytes), (0, info.prepared_bytes));
    assert_eq!((prepared.scale_min, prepared.scale_max), (118, 121));
    assert!(weights.query_census().unwrap().span_max <= 3);
    let context = layer.context().query().unwrap();
    assert_eq!((context.device, context.name.as_str()), (Device::Cpu, "CPU"));
    assert!(context.threads >= 1);
    assert_eq!(DeviceInfo::count(Device::Cpu).unwrap(), 1);
    let cpu = DeviceInfo::query(Device::Cpu, 0).unwrap();
    assert!(cpu.supported && cpu.reason.is_empty());
    let (major, minor, _) = dsv4mx::version().unwrap();
    assert_eq!(
        (major, minor),
        (dsv4mx::sys::DSV4MX_VERSION_MAJOR, dsv4mx::sys::DSV4MX_VERSION_MINOR)
    );
    assert!(dsv4mx::version_string().unwrap().starts_with(&format!("{major}.{minor}.")));
}
