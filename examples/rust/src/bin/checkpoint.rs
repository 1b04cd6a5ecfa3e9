//! Opens a checkpoint, loads one MoE layer, applies it to random tokens, and compares the result with the fp64 reference.
//!
//! ```text
//! checkpoint PATH [--layer N] [--top-k K] [--tokens N] [--clamp L] [--rsf R]
//! ```

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use dsv4mx::experimental::Oracle;
use dsv4mx::{
    Batch, Block, Checkpoint, Context, Control, Device, Dtype, Layer, LayerDesc, Progress, Weights,
    bf16,
};
use dsv4mx_examples::{ERROR_LIMIT, Rng, Tokens, relative_error};

type Failure = Box<dyn std::error::Error>;

struct Options {
    path: String,
    layer: Option<i32>,
    top_k: i32,
    tokens: usize,
    clamp: f32,
    routed_scaling: f32,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options {
        path: String::new(),
        layer: None,
        top_k: 6,
        tokens: 64,
        clamp: 10.0,
        routed_scaling: 1.5,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| format!("{argument}: a value is missing"));
        match argument.as_str() {
            "--layer" => options.layer = Some(value()?.parse()?),
            "--top-k" => options.top_k = value()?.parse()?,
            "--tokens" => options.tokens = value()?.parse()?,
            "--clamp" => options.clamp = value()?.parse()?,
            "--rsf" => options.routed_scaling = value()?.parse()?,
            path if !path.starts_with('-') && options.path.is_empty() => options.path = argument,
            other => return Err(format!("what is '{other}'?").into()),
        }
    }
    if options.path.is_empty() {
        return Err(
            "usage: checkpoint PATH [--layer N] [--top-k K] [--tokens N] [--clamp L] [--rsf R]"
                .into(),
        );
    }
    Ok(options)
}

/// A line that overwrites itself, on a terminal only.
fn show_progress() -> Control<'static> {
    Control::new().progress(move |Progress { stage, done, total, .. }| {
        if stderr().is_terminal() && total > 0 {
            let end = if done == total { "\r\x1b[K" } else { "" };
            eprint!("\r\x1b[K{stage}: {} %{end}", 100 * done / total);
            let _ = stderr().flush();
        }
        ControlFlow::Continue(())
    })
}

fn load(layer: &Layer, checkpoint: &Checkpoint, block: &Block) -> dsv4mx::Result<Weights> {
    let mut weights = Weights::new(layer)?;
    weights.load_with(checkpoint, block, 0, &mut show_progress())?;
    weights.prepare_with(&mut show_progress())?;
    Ok(weights)
}

/// The smallest N of a name `layers.N....experts.`
fn first_layer(checkpoint: &Checkpoint) -> Option<i32> {
    let number = |name: &str| {
        let rest = name.contains(".experts.").then(|| name.split_once("layers."))??.1;
        rest.split('.').next()?.parse().ok()
    };
    checkpoint.names().filter_map(number).min()
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    let checkpoint = Checkpoint::open(&options.path)?;
    let layer = options.layer.or_else(|| first_layer(&checkpoint)).unwrap_or(0);
    let block = Block::Layer(layer);
    let desc: LayerDesc = checkpoint
        .query_layer(&block)?
        .top_k(options.top_k)
        .clamp_limit(options.clamp)
        .routed_scaling_factor(options.routed_scaling);

    // Slices are the CPU's; on a GPU the same layer takes device pointers.
    let context = Context::builder().device(Device::Cpu).build()?;
    let fast = Layer::new(&context, &desc)?;
    let info = fast.query()?;
    if info.top_k > info.experts {
        return Err(
            format!("--top-k is {}, the layer has {} experts", info.top_k, info.experts).into()
        );
    }
    println!("checkpoint  {}: {} tensors", options.path, checkpoint.count());
    println!(
        "layer       layers.{layer}: E {}, H {}, I {}, top-k {}",
        info.experts, info.hidden, info.intermediate, info.top_k
    );
    let start = Instant::now();
    let weights = load(&fast, &checkpoint, &block)?;
    println!(
        "weights     {} bytes in {:.2} s",
        weights.query()?.bytes,
        start.elapsed().as_secs_f64()
    );

    let [hidden, experts, top_k] = [info.hidden, info.experts, info.top_k].map(|n| n as usize);
    let tokens = Tokens::random(&mut Rng::new(1), options.tokens, hidden, experts, top_k);
    let mut y = vec![bf16::ZERO; options.tokens * hidden];
    let batch = Batch::new(&tokens.x, &tokens.ids, &tokens.weights, &mut y);
    let start = Instant::now();
    fast.apply(&weights, batch, &mut fast.workspace(options.tokens)?)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("apply       {} tokens in {:.2} ms, {}", options.tokens, 1e3 * seconds, info.backend);

    let oracle = Layer::new(&context, &desc.oracle(Oracle::Truth).out_dtype(Dtype::F32))?;
    let weights = load(&oracle, &checkpoint, &block)?;
    let mut truth = vec![0f32; y.len()];
    let batch = Batch::new(&tokens.x, &tokens.ids, &tokens.weights, &mut truth);
    oracle.apply(&weights, batch, &mut oracle.workspace(options.tokens)?)?;
    let error = relative_error(&y, &truth);
    println!(
        "error       {error:.2e} relative L2 against the fp64 reference, limit {ERROR_LIMIT:.0e}"
    );
    if error.is_nan() || error > ERROR_LIMIT {
        return Err("the result is wrong".into());
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("checkpoint: {error}");
            ExitCode::FAILURE
        }
    }
}
