//! What a call costs beyond its work: an apply of no tokens, ns. `cargo bench -p dsv4mx`. With `--features cudarc` and a GPU
//! also what the host spends on a call there, on a stream and while that is captured into a CUDA graph.

use std::hint::black_box;
use std::time::Instant;

use dsv4mx::{
    Batch, Context, DeviceBatch, Layer, LayerDesc, Stream, Tensor, W13Order, Weights, bf16,
};

/// The fastest of many rounds, ns a call. A round is shorter than a time slice, so that on a busy machine some are alone on
/// their processor; C, Go and Python measure alike.
fn time(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 200;
    let round = |_| {
        let start = Instant::now();
        for _ in 0..CALLS {
            call();
        }
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..20_000).map(round).fold(f64::INFINITY, f64::min)
}

type Failure = Box<dyn std::error::Error>;

fn layer(context: &Context) -> Result<(Layer, Weights), Failure> {
    let layer = Layer::new(context, &LayerDesc::new(32, 32, 2, 1).w13_order(W13Order::GateUp))?;
    let mut weights = Weights::new(&layer)?;
    for (name, rows) in [("w13", 64), ("w2", 32)] {
        let (codes, scales) = (vec![0x21u8; 2 * rows * 16], vec![120u8; 2 * rows]);
        weights.set(&format!("{name}_weight"), &Tensor::new(&codes, &[2, rows, 16])?)?;
        weights.set(&format!("{name}_weight_scale"), &Tensor::new(&scales, &[2, rows, 1])?)?;
    }
    weights.prepare()?;
    Ok((layer, weights))
}

#[cfg(feature = "cudarc")]
fn on_cuda() -> Result<(), Failure> {
    use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
    const CALLS: u32 = 50;
    if dsv4mx::DeviceInfo::count(dsv4mx::Device::Cuda)? == 0 {
        println!("skipped: no CUDA device");
        return Ok(());
    }
    let context = Context::cuda(0)?;
    let (layer, weights) = layer(&context)?;
    let device = cudarc::driver::CudaContext::new(0)?;
    let stream = device.new_stream()?;
    let mut workspace = layer.workspace(1)?;
    let x = dsv4mx::Buffer::from_slice(&context, &[bf16::ZERO; 32])?;
    let mut out = dsv4mx::Buffer::from_slice(&context, &[bf16::ZERO; 32])?;
    let ids = dsv4mx::Buffer::from_slice(&context, &[0i32])?;
    let router = dsv4mx::Buffer::from_slice(&context, &[0f32])?;
    for tokens in [0, 1] {
        let batch =
            DeviceBatch::new(tokens, x.as_ptr(), ids.as_ptr(), router.as_ptr(), out.as_mut_ptr())
                .workspace(workspace.as_mut_ptr(), workspace.bytes());
        for captured in [false, true] {
            let mut best = f64::INFINITY;
            for _ in 0..400 {
                if captured {
                    stream
                        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
                }
                let start = Instant::now();
                for _ in 0..CALLS {
                    // SAFETY: buffers and stream live until the wait below; a graph is never launched.
                    unsafe { layer.apply_device(&weights, &batch, Stream::from(&*stream))? };
                }
                best = best.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
                if captured {
                    let flags =
                        CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
                    drop(stream.end_capture(flags)?);
                } else {
                    stream.synchronize()?;
                }
            }
            println!("{tokens} tokens on CUDA, captured {captured}: {best:.1} ns of the host");
        }
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let context = Context::cpu()?;
    let (layer, weights) = layer(&context)?;
    let mut workspace = layer.workspace(1)?;

    let show = |what: &str, best: f64| println!("{best:6.1} ns  {what}");
    let none = Batch::new(&[], &[0i32; 0], &[0f32; 0], &mut [] as &mut [bf16]);
    let mut bound = layer.bind(&weights, none, &mut workspace)?;
    show("bound once, no tokens", time(|| bound.run().unwrap_or_else(|e| panic!("{e}"))));
    show(
        "checked and bound each time, no tokens",
        time(|| {
            let none = Batch::new(&[], &[0i32; 0], &[0f32; 0], &mut [] as &mut [bf16]);
            layer
                .apply(&weights, black_box(none), &mut workspace)
                .unwrap_or_else(|e| panic!("{e}"));
        }),
    );
    let null = std::ptr::null();
    let pointers = DeviceBatch::new(0, null, null, null, std::ptr::null_mut())
        .workspace(workspace.as_mut_ptr(), workspace.bytes());
    show(
        "pointers, no tokens",
        time(|| {
            // SAFETY: no tokens, so no pointer is used; the workspace is the context's.
            unsafe { layer.apply_device(&weights, &pointers, Stream::DEFAULT) }
                .unwrap_or_else(|e| panic!("{e}"));
        }),
    );
    #[cfg(feature = "cudarc")]
    on_cuda()?;
    Ok(())
}
