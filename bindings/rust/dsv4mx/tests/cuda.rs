//! The safe apply for cudarc. Needs a GPU, and the feature `cudarc`:
//! `cargo test -p dsv4mx --features cudarc,experimental --test cuda`

#[path = "all/common.rs"]
#[allow(dead_code)]
mod common;

use common::*;
use cudarc::driver::CudaContext;
use dsv4mx::experimental::Oracle;
use dsv4mx::{Batch, Context, CudaBatch, Device, DeviceInfo, Dtype, Layer, Status, Stream, bf16};

fn have_gpu() -> bool {
    let usable = DeviceInfo::query(Device::Cuda, 0).is_ok_and(|info| info.supported);
    if !usable {
        println!("skipped: no CUDA device that the library supports");
    }
    usable
}

fn truth(inputs: &Inputs, tokens: usize) -> Vec<f32> {
    let desc = desc().oracle(Oracle::Truth).out_dtype(Dtype::F32);
    let layer = Layer::new(&Context::cpu().unwrap(), &desc).unwrap();
    let weights = weights(&layer);
    let mut y = vec![0f32; tokens * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(&weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
    y
}

#[test]
fn slices_of_cudarc_give_the_layer() {
    if !have_gpu() {
        return;
    }
    let tokens = 33;
    let inputs = inputs(tokens, 21);
    let cuda = CudaContext::new(0).unwrap();
    let layer = Layer::new(&Context::cuda(0).unwrap(), &desc()).unwrap();
    let weights = weights(&layer);
    let mut workspace = layer.workspace(tokens).unwrap();
    let streams = [cuda.new_stream().unwrap(), cuda.new_stream().unwrap()];
    let first = &streams[0];
    let x = first.clone_htod(&inputs.x).unwrap();
    let ids = first.clone_htod(&inputs.ids).unwrap();
    let router_weights = first.clone_htod(&inputs.router_weights).unwrap();
    let mut outs = Vec::new();
    // One workspace on two streams in turn: the second call waits for the first.
    for stream in streams.iter().cycle().take(6) {
        let mut out = stream.alloc_zeros::<bf16>(tokens * HIDDEN).unwrap();
        let batch = CudaBatch {
            x: x.as_view(),
            topk_ids: ids.as_view(),
            topk_weights: router_weights.as_view(),
            out: out.as_view_mut(),
        };
        layer.apply_cuda(&weights, batch, &mut workspace, stream).unwrap();
        outs.push((stream, out));
    }
    // All of it goes away while work may be on its way: dropping waits.
    drop(workspace);
    drop(weights);
    drop(layer);
    let truth = truth(&inputs, tokens);
    for (stream, out) in &outs {
        let y = stream.clone_dtoh(out).unwrap();
        assert!(relative_error(&floats(&y), &truth) < 3e-3);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    if !have_gpu() {
        return;
    }
    let inputs = inputs(2, 22);
    let cuda = CudaContext::new(0).unwrap();
    let stream = cuda.new_stream().unwrap();
    let context = Context::cuda(0).unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    let weights = weights(&layer);
    let mut workspace = layer.workspace(2).unwrap();
    let x = stream.clone_htod(&inputs.x).unwrap();
    let ids = stream.clone_htod(&inputs.ids[1..]).unwrap();
    let router_weights = stream.clone_htod(&inputs.router_weights).unwrap();
    let mut out = stream.alloc_zeros::<bf16>(2 * HIDDEN).unwrap();
    let batch = CudaBatch {
        x: x.as_view(),
        topk_ids: ids.as_view(),
        topk_weights: router_weights.as_view(),
        out: out.as_view_mut(),
    };
    let error = layer.apply_cuda(&weights, batch, &mut workspace, &stream).unwrap_err();
    assert_eq!(error.status(), Status::InvalidTensor, "{error}");
    assert!(error.text().contains("topk_ids has 3 elements, expected 2 rows of 2"), "{error}");

    // Slices are host memory.
    let mut y = vec![bf16::ZERO; 2 * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    let error = layer.apply(&weights, batch, &mut workspace).unwrap_err();
    assert_eq!(error.status(), Status::Unsupported, "{error}");
    context.synchronize(Stream::from(&*stream)).unwrap();
}
