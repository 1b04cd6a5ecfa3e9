//! Loads the experts of all MoE layers of a model folder, draft blocks included, and says how fast. Each layer is applied once
//! to see that it works. Before the first byte is read the program asks what the model needs: layers that fit together stay
//! loaded together, else each is freed before the next.
//!
//! ```text
//! model FOLDER [--device|cpu] [--top-k K] [--clamp L]
//! ```

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Instant;

use dsv4mx::{
    Batch, Block, Checkpoint, Context, Control, Device, Layer, ModelOptions, Progress, Stage,
    Weights, bf16,
};
use dsv4mx_examples::{Rng, Tokens};

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "usage: model FOLDER [--device cpu] [--top-k K] [--clamp L]";
const TOKENS: usize = 4;

struct Options {
    path: String,
    top_k: i32,
    clamp: f32,
}

fn options() -> Result<Options, Failure> {
    let mut options = Options { path: String::new(), top_k: 6, clamp: 10.0 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| format!("{argument}: a value is missing"));
        match argument.as_str() {
            // Slices are the CPU's; on a GPU the same layer takes device pointers.
            "--device" if value()? == "cpu" => {}
            "--device" => return Err("--device: this example runs on the cpu".into()),
            "--top-k" => options.top_k = value()?.parse()?,
            "--clamp" => options.clamp = value()?.parse()?,
            path if !path.starts_with('-') && options.path.is_empty() => options.path = argument,
            other => return Err(format!("what is '{other}'? {USAGE}").into()),
        }
    }
    if options.path.is_empty() { Err(USAGE.into()) } else { Ok(options) }
}

/// The bar over all layers, on a terminal only: each counts the same, nine tenths of it for loading.
fn bar(name: &str, index: usize, count: usize) -> Control<'_> {
    Control::new().progress(move |Progress { stage, done, total, .. }| {
        if stderr().is_terminal() && total > 0 {
            let part = done as f64 / total as f64;
            let here = if stage == Stage::Load { 0.9 * part } else { 0.9 + 0.1 * part };
            let all = (index as f64 + here) / count as f64;
            let cells = "#".repeat((40.0 * all) as usize);
            eprint!("\r\x1b[K[{cells:.<40}] {:3.0} % {name}", 100.0 * all);
            let _ = stderr().flush();
        }
        ControlFlow::Continue(())
    })
}

/// A layer with its weights, and what the table says of it.
struct Loaded {
    layer: Layer,
    weights: Weights,
    bytes: i64,
    seconds: f64,
}

fn load(
    context: &Context,
    checkpoint: &Checkpoint,
    block: &Block,
    options: &Options,
    control: &mut Control<'_>,
) -> Result<Loaded, Failure> {
    // A description has no getters, but a layer says what it is.
    let desc = checkpoint.query_layer(block)?.clamp_limit(options.clamp);
    let experts = Layer::new(context, &desc.clone().top_k(1))?.query()?.experts_global;
    let layer = Layer::new(context, &desc.top_k(options.top_k.min(experts)))?;
    let mut weights = Weights::new(&layer)?;
    let start = Instant::now();
    weights.load_with(checkpoint, block, 0, control)?;
    weights.prepare_with(control)?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = layer.query()?.prepared_bytes;
    Ok(Loaded { layer, weights, bytes, seconds })
}

/// A few random tokens through the layer: what comes out is finite and not all zero.
fn smoke_check(name: &str, loaded: &Loaded) -> Result<(), Failure> {
    let info = loaded.layer.query()?;
    let [hidden, experts, top_k] = [info.hidden, info.experts, info.top_k].map(|n| n as usize);
    let tokens = Tokens::random(&mut Rng::new(1), TOKENS, hidden, experts, top_k);
    let mut y = vec![bf16::ZERO; TOKENS * hidden];
    let batch = Batch::new(&tokens.x, &tokens.ids, &tokens.weights, &mut y);
    loaded.layer.apply(&loaded.weights, batch, &mut loaded.layer.workspace(TOKENS)?)?;
    let sum: f64 = y.iter().map(|value| f64::from(value.to_f32()).abs()).sum();
    if !sum.is_finite() || sum == 0.0 {
        return Err(format!("{name}: the layer gives {sum} for random tokens").into());
    }
    Ok(())
}

fn row(name: &str, bytes: i64, seconds: f64) {
    println!("{name:16} {bytes:14} {seconds:10.3} {:8.2}", 1e-9 * bytes as f64 / seconds);
}

fn run() -> Result<(), Failure> {
    let options = options()?;
    let checkpoint = Checkpoint::open(&options.path)?;
    let context = Context::builder().device(Device::Cpu).build()?;
    let need = checkpoint.query_model(&context, &ModelOptions::new())?;
    let together = need.blocks_fitting.is_none_or(|fitting| fitting == need.blocks);
    let how = if together { "all loaded together" } else { "one loaded after the other" };
    let gigabytes = 1e-9 * need.prepared_bytes as f64;
    println!("{} layers with experts, {gigabytes:.3} GB, {how}", need.blocks);

    let blocks = checkpoint.blocks()?;
    let mut rows = Vec::new();
    let mut kept = Vec::new();
    for (index, found) in blocks.iter().enumerate() {
        let name = match &found.block {
            Block::Layer(number) => format!("layers.{number}"),
            Block::Mtp(number) => format!("mtp.{number}"),
            _ => found.prefix.clone(),
        };
        let block = Block::Prefix(found.prefix.clone());
        let mut control = bar(&name, index, blocks.len());
        let loaded = load(&context, &checkpoint, &block, &options, &mut control)?;
        drop(control);
        rows.push((name.clone(), loaded.bytes, loaded.seconds));
        if together {
            kept.push((name, loaded));
        } else {
            smoke_check(&name, &loaded)?;
        }
    }
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    for (name, loaded) in &kept {
        smoke_check(name, loaded)?;
    }

    println!("{:16} {:>14} {:>10} {:>8}", "layer", "bytes", "seconds", "GB/s");
    for (name, bytes, seconds) in &rows {
        row(name, *bytes, *seconds);
    }
    let bytes = rows.iter().map(|row| row.1).sum();
    row("total", bytes, rows.iter().map(|row| row.2).sum());
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model: {error}");
            ExitCode::FAILURE
        }
    }
}
