//! A small HTTP service around one MoE layer: many clients at once, one layer call for all that are waiting.
//!
//! ```text
//! serve [--listen 127.0.0.1:8080] [--queue 1024] [--batch-tokens 256] [--threads N]
//!       (CHECKPOINT [--layer N] [--top-k 6] | --random HIDDEN,INTERMEDIATE,EXPERTS,TOP_K [--seed 1])
//!
//! POST /apply    body: x [tokens, hidden] bf16, ids [tokens, top_k] i32, router weights [tokens, top_k] f32, little-endian
//!                200: y [tokens, hidden] bf16; 400: a body that is no batch; 503: the queue is full, come back later
//! GET  /health   200 while the service takes calls
//! GET  /metrics  counters in Prometheus' text form
//! ```
//!
//! SIGTERM and SIGINT end it: calls that are in are answered, new ones are not accepted.

mod batcher;
mod metrics;

use std::future::{Future, IntoFuture};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use dsv4mx::{Block, Checkpoint, Context, Device, Layer, LayerDesc, W13Order, Weights};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use batcher::{Batcher, Refusal};
use metrics::Metrics;

type Failure = Box<dyn std::error::Error>;

/// How long calls that are in may take after a signal.
const GRACE: Duration = Duration::from_secs(20);

struct Options {
    listen: String,
    queue: usize,
    batch_tokens: usize,
    threads: i32,
    checkpoint: Option<String>,
    layer: i32,
    top_k: i32,
    random: Option<[i32; 4]>,
    seed: u64,
}

fn options() -> Result<Options, Failure> {
    let mut o = Options {
        listen: "127.0.0.1:8080".into(),
        queue: 1024,
        batch_tokens: 256,
        threads: 0,
        checkpoint: None,
        layer: 0,
        top_k: 6,
        random: None,
        seed: 1,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().ok_or_else(|| format!("{argument}: a value is missing"));
        match argument.as_str() {
            "--listen" => o.listen = value()?,
            "--queue" => o.queue = value()?.parse()?,
            "--batch-tokens" => o.batch_tokens = value()?.parse()?,
            "--threads" => o.threads = value()?.parse()?,
            "--layer" => o.layer = value()?.parse()?,
            "--top-k" => o.top_k = value()?.parse()?,
            "--seed" => o.seed = value()?.parse()?,
            "--random" => {
                let sizes = value()?.split(',').map(str::parse).collect::<Result<Vec<i32>, _>>()?;
                o.random = Some(sizes.try_into().map_err(|_| "--random takes four numbers")?);
            }
            path if !path.starts_with('-') && o.checkpoint.is_none() => {
                o.checkpoint = Some(argument)
            }
            other => return Err(format!("what is '{other}'?").into()),
        }
    }
    if o.queue == 0 || o.batch_tokens == 0 {
        return Err("--queue and --batch-tokens are 1 or more".into());
    }
    Ok(o)
}

fn load(o: &Options) -> Result<(Layer, Weights), Failure> {
    let context = Context::builder().device(Device::Cpu).threads(o.threads).build()?;
    // A client's answer does not depend on whose tokens were in its batch.
    match (&o.checkpoint, o.random) {
        (Some(path), None) => {
            let checkpoint = Checkpoint::open(path)?;
            let block = Block::Layer(o.layer);
            let desc = checkpoint.query_layer(&block)?.top_k(o.top_k).clamp_limit(10.0);
            let layer = Layer::new(&context, &desc.batch_invariant(true))?;
            let mut weights = Weights::new(&layer)?;
            weights.load(&checkpoint, &block)?;
            weights.prepare()?;
            Ok((layer, weights))
        }
        (None, Some([hidden, intermediate, experts, top_k])) => {
            let desc = LayerDesc::new(hidden, intermediate, experts, top_k)
                .w13_order(W13Order::GateUp)
                .clamp_limit(10.0)
                .batch_invariant(true);
            let layer = Layer::new(&context, &desc)?;
            let weights = dsv4mx_examples::random_weights(&layer, o.seed)?;
            Ok((layer, weights))
        }
        _ => Err("either a checkpoint or --random HIDDEN,INTERMEDIATE,EXPERTS,TOP_K".into()),
    }
}

struct Service {
    batcher: Batcher,
    metrics: Arc<Metrics>,
}

async fn apply(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    let start = Instant::now();
    let answer = match service.batcher.parse(&body) {
        Ok(call) => service.batcher.call(call).await,
        Err(refusal) => Err(refusal),
    };
    service.metrics.count(answer.as_ref().err(), start.elapsed());
    match answer {
        Ok(y) => ([(header::CONTENT_TYPE, "application/octet-stream")], y).into_response(),
        Err(Refusal::Malformed(text)) => (StatusCode::BAD_REQUEST, text).into_response(),
        Err(Refusal::Busy) => {
            let head = [(header::RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, head, "the queue is full\n").into_response()
        }
        Err(Refusal::Failed(text)) => (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    }
}

async fn health() -> &'static str {
    "ok\n"
}

async fn show_metrics(State(service): State<Arc<Service>>) -> String {
    service.metrics.render(service.batcher.waiting())
}

/// A service does not end because nobody reads its standard output any more.
fn say(text: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "serve: {text}").and_then(|()| out.flush());
}

/// Resolves at SIGTERM or SIGINT.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn serve(o: Options, layer: Layer, weights: Weights) -> Result<(), Failure> {
    let metrics = Arc::new(Metrics::default());
    let (batcher, worker) =
        Batcher::start(layer, weights, o.queue, o.batch_tokens, metrics.clone())?;
    let limit = batcher.row_bytes() * o.batch_tokens;
    let service = Arc::new(Service { batcher, metrics });
    let router = Router::new()
        .route("/apply", post(apply).layer(DefaultBodyLimit::max(limit)))
        .route("/health", get(health))
        .route("/metrics", get(show_metrics))
        .with_state(service);
    let stop = stop()?;
    let listener = TcpListener::bind(&o.listen).await?;
    say(&format!("listening on {}", listener.local_addr()?));

    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let server = axum::serve(listener, router).with_graceful_shutdown(async move {
        stop.await;
        let _ = stopping.send(true);
    });
    tokio::select! {
        ended = server.into_future() => ended?,
        // A client that never ends its request does not keep the service.
        () = async {
            let _ = stopped.wait_for(|&stopping| stopping).await;
            tokio::time::sleep(GRACE).await;
        } => say(&format!("{} s after the signal some clients are still connected", GRACE.as_secs())),
    }
    // The router is gone, and with it the queue: the worker ends after what is in it.
    tokio::task::spawn_blocking(move || worker.join()).await?.map_err(|_| "the worker panicked")?;
    say("stopped");
    Ok(())
}

fn main() -> ExitCode {
    let run = || {
        let options = options()?;
        let (layer, weights) = load(&options)?;
        serve(options, layer, weights)
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("serve: {error}");
            ExitCode::FAILURE
        }
    }
}
