//! One layer over several ranks of this process: a thread per rank, experts dealt out, tokens of its own on each.
//!
//! ```text
//! ranks [--device cpu|cuda] [RANKS [TP]]     default 4 ranks, of which TP = 1 hold slices of the same experts
//! ```
//!
//! With `--device cuda` ranks take the host's GPUs in turn. Every rank makes a context, its part of the layer and a
//! communicator; `prepare` tells the ranks who holds what; then each apply is the whole layer for the rank's own tokens. The
//! result is compared with one rank that holds everything: the same bits without slices, close with them.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use dsv4mx::{
    Batch, Buffer, Comm, CommDesc, Context, Device, DeviceBatch, DeviceInfo, Dtype, Layer,
    LayerDesc, Result, Stream, Tensor, W13Order, Weights, bf16,
};
use dsv4mx_examples::{Rng, Tokens, relative_error};

const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 128;
const EXPERTS: usize = 16;
const TOP_K: usize = 4;
const TOKENS: usize = 64;

/// Codes and scales of one tensor of all experts, `[EXPERTS, rows, k]`.
struct Matrices {
    rows: usize,
    k: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

impl Matrices {
    fn random(rng: &mut Rng, rows: usize, k: usize) -> Self {
        let codes = (0..EXPERTS * rows * k / 2).map(|_| rng.bits() as u8).collect();
        let scales = (0..EXPERTS * rows * k / 32).map(|_| 118 + rng.below(4) as u8).collect();
        Self { rows, k, codes, scales }
    }

    /// Part of one expert by strides: nothing is copied before the library does.
    fn set(
        &self,
        to: &mut Weights,
        name: &str,
        [local, expert]: [usize; 2],
        at: Slice,
    ) -> Result<()> {
        for (kind, all, per_byte) in [("weight", &self.codes, 2), ("scale", &self.scales, 32)] {
            let row = self.k / per_byte;
            let first = (expert * self.rows + at.row) * row + at.column / per_byte;
            let shape = [at.rows, at.columns / per_byte];
            let tensor = Tensor::strided(&all[first..], &shape, &[row, 1])?;
            to.set_expert(&format!("{name}.{kind}"), local, &tensor)?;
        }
        Ok(())
    }
}

struct Slice {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// The whole layer and all tokens, as a checkpoint and a batch would give them.
struct Model {
    /// GPUs that ranks take in turn; 0: the CPU.
    gpus: usize,
    w13: Matrices,
    w2: Matrices,
    tokens: Tokens,
}

impl Model {
    /// What rank `rank` of `size` gets for its tokens. A size of 1 is the whole.
    fn run(&self, rank: usize, size: usize, tp: usize) -> Result<Vec<bf16>> {
        let (parts, part, slice) = (size / tp, rank / tp, rank % tp);
        let (held, share) = (EXPERTS / parts, INTERMEDIATE / tp);
        let context = match self.gpus {
            0 => Context::cpu()?,
            gpus => Context::cuda((rank % gpus) as i32)?,
        };
        let desc = LayerDesc::new(HIDDEN as i32, INTERMEDIATE as i32, held as i32, TOP_K as i32)
            .experts_global(EXPERTS as i32)
            .expert_first((part * held) as i32)
            .tp_rank(slice as i32)
            .tp_size(tp as i32)
            .w13_order(W13Order::GateUp)
            .slot_dtype(Dtype::Bf16) // as the communicator's default
            .batch_invariant(true);
        let layer = Layer::new(&context, &desc)?;
        let mut weights = Weights::new(&layer)?;
        for local in 0..held {
            let expert = [local, part * held + local];
            let first = slice * share;
            let gate = Slice { row: first, rows: share, column: 0, columns: HIDDEN };
            self.w13.set(&mut weights, "w1", expert, gate)?;
            let up = Slice { row: INTERMEDIATE + first, rows: share, column: 0, columns: HIDDEN };
            self.w13.set(&mut weights, "w3", expert, up)?;
            let down = Slice { row: 0, rows: HIDDEN, column: first, columns: share };
            self.w2.set(&mut weights, "w2", expert, down)?;
        }
        weights.prepare()?;

        // Ranks of this process that give the same number find each other.
        let ranks = match size {
            1 => CommDesc::single(),
            _ => CommDesc::local(rank as i32, size as i32, 1).tp_size(tp as i32),
        };
        let ranks = ranks.max_tokens(TOKENS).max_hidden(HIDDEN as i32).max_top_k(TOP_K as i32);
        let ranks = ranks.timeout(Duration::from_secs(60)); // ranks may share a device; the default is 10 s
        let mut comm = Comm::new(&context, ranks)?;
        comm.prepare(&layer)?;

        let (first, end) = (TOKENS * part / parts, TOKENS * (part + 1) / parts);
        let pairs = first * TOP_K..end * TOP_K;
        let mut y = vec![bf16::ZERO; (end - first) * HIDDEN];
        let (x, ids) =
            (&self.tokens.x[first * HIDDEN..end * HIDDEN], &self.tokens.ids[pairs.clone()]);
        let router_weights = &self.tokens.weights[pairs];
        let mut workspace = comm.workspace(&layer, end - first)?; // rows of other ranks need room too
        if self.gpus == 0 {
            let batch = Batch::new(x, ids, router_weights, &mut y).comm(&mut comm);
            layer.apply(&weights, batch, &mut workspace)?;
            return Ok(y);
        }
        let (x, ids) = (Buffer::from_slice(&context, x)?, Buffer::from_slice(&context, ids)?);
        let router_weights = Buffer::from_slice(&context, router_weights)?;
        let mut out = Buffer::from_slice(&context, &y)?;
        let batch = DeviceBatch::new(
            end - first,
            x.as_ptr(),
            ids.as_ptr(),
            router_weights.as_ptr(),
            out.as_mut_ptr(),
        )
        .workspace(workspace.as_mut_ptr(), workspace.bytes())
        .comm(&mut comm);
        // SAFETY: buffers of the layer's types and sizes, which live, as all else does, until the copy below has waited.
        #[allow(unsafe_code)]
        unsafe {
            layer.apply_device(&weights, &batch, Stream::DEFAULT)?
        };
        out.copy_to(&mut y)?;
        Ok(y)
    }
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut gpus = 0;
    if words.first().is_some_and(|word| word == "--device") && words.len() > 1 {
        match words[1].as_str() {
            // Without one the context says what is missing.
            "cuda" => gpus = DeviceInfo::count(Device::Cuda).map_or(1, |n| n.max(1) as usize),
            "cpu" => {}
            other => {
                eprintln!("what is --device {other}? cpu and cuda are known");
                return ExitCode::from(2);
            }
        }
        words.drain(..2);
    }
    let number = |n: usize, default| match words.get(n) {
        Some(word) => word.parse().unwrap_or(0),
        None => default,
    };
    let (size, tp): (usize, usize) = (number(0, 4), number(1, 1));
    let fits = |whole: usize, parts: usize| parts > 0 && whole % parts == 0;
    if !(1..=16).contains(&size)
        || !fits(size, tp)
        || !fits(EXPERTS, size / tp)
        || !fits(INTERMEDIATE / 32, tp)
    {
        eprintln!("usage: ranks [--device cpu|cuda] [RANKS [TP]], RANKS up to 16, TP a divisor");
        return ExitCode::from(2);
    }
    let mut rng = Rng::new(1);
    let model = Model {
        gpus,
        w13: Matrices::random(&mut rng, 2 * INTERMEDIATE, HIDDEN),
        w2: Matrices::random(&mut rng, HIDDEN, INTERMEDIATE),
        tokens: Tokens::random(&mut rng, TOKENS, HIDDEN, EXPERTS, TOP_K),
    };
    let results: Vec<_> = thread::scope(|scope| {
        let model = &model;
        let ranks: Vec<_> =
            (0..size).map(|rank| scope.spawn(move || model.run(rank, size, tp))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank panicked")).collect()
    });
    let mut y = Vec::new();
    for (rank, result) in results.into_iter().enumerate() {
        match result {
            // Tensor-parallel ranks of a part have the same rows.
            Ok(rows) if rank % tp == 0 => y.extend(rows),
            Ok(_) => {}
            Err(error) => {
                eprintln!("ranks: rank {rank}: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
    let one = match model.run(0, 1, 1) {
        Ok(one) => one,
        Err(error) => {
            eprintln!("ranks: {error}");
            return ExitCode::FAILURE;
        }
    };
    let bits = |y: &[bf16]| y.iter().map(|y| y.to_bits()).collect::<Vec<_>>();
    let same = bits(&y) == bits(&one);
    let distance = relative_error(&y, &one.iter().map(|y| y.to_f32()).collect::<Vec<_>>());
    println!(
        "{size} rank{}, {tp} tensor-parallel, {TOKENS} tokens: {}the bits of one rank, relative distance {distance:.1e}",
        if size == 1 { "" } else { "s" },
        if same { "" } else { "not " },
    );
    let good = if tp == 1 { same } else { distance < 5e-3 };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
