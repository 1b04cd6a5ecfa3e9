//! One thread owns the layer and makes one call of all that wait in a bounded queue.

use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use dsv4mx::{Batch, Layer, Weights, Workspace, bf16};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// Why a call gets no result.
#[derive(Debug)]
pub enum Refusal {
    Malformed(String),
    Busy,
    Failed(String),
}

/// What one client wants applied.
pub struct Call {
    x: Vec<bf16>,
    ids: Vec<i32>,
    weights: Vec<f32>,
}

struct Job {
    call: Call,
    answer: oneshot::Sender<Result<Vec<u8>, Refusal>>,
}

/// The way into the queue.
pub struct Batcher {
    queue: mpsc::Sender<Job>,
    hidden: usize,
    top_k: usize,
    batch_tokens: usize,
}

impl Batcher {
    /// Starts the thread. It ends when the batcher is gone and the queue is empty.
    pub fn start(
        layer: Layer,
        weights: Weights,
        queue: usize,
        batch_tokens: usize,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, JoinHandle<()>), Box<dyn std::error::Error>> {
        let info = layer.query()?;
        let (hidden, top_k) = (info.hidden as usize, info.top_k as usize);
        let workspace = layer.workspace(batch_tokens)?;
        let (sender, receiver) = mpsc::channel(queue);
        let worker = Worker {
            layer,
            weights,
            workspace,
            hidden,
            batch_tokens,
            metrics,
            joined: Call { x: Vec::new(), ids: Vec::new(), weights: Vec::new() },
            out: Vec::new(),
        };
        let thread = Builder::new().name("layer".into()).spawn(move || worker.run(receiver))?;
        Ok((Self { queue: sender, hidden, top_k, batch_tokens }, thread))
    }

    /// Bytes of a token in a body.
    pub fn row_bytes(&self) -> usize {
        2 * self.hidden + 8 * self.top_k
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Reads a body.
    pub fn parse(&self, body: &[u8]) -> Result<Call, Refusal> {
        let row = self.row_bytes();
        let tokens = body.len() / row;
        if tokens == 0 || tokens > self.batch_tokens || body.len() % row != 0 {
            let most = self.batch_tokens;
            return Err(Refusal::Malformed(format!(
                "{} bytes, expected {row} for each of 1..{most} tokens\n",
                body.len()
            )));
        }
        let (x, rest) = body.split_at(2 * self.hidden * tokens);
        let (ids, weights) = rest.split_at(4 * self.top_k * tokens);
        Ok(Call {
            x: x.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect(),
            ids: words(ids).map(i32::from_le_bytes).collect(),
            weights: words(weights).map(f32::from_le_bytes).collect(),
        })
    }

    /// Queues a call and waits for its result.
    pub async fn call(&self, call: Call) -> Result<Vec<u8>, Refusal> {
        let (answer, result) = oneshot::channel();
        self.queue.try_send(Job { call, answer }).map_err(|_| Refusal::Busy)?;
        result.await.unwrap_or_else(|_| Err(Refusal::Failed("the worker has ended\n".into())))
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]])
}

struct Worker {
    layer: Layer,
    weights: Weights,
    workspace: Workspace,
    hidden: usize,
    batch_tokens: usize,
    metrics: Arc<Metrics>,
    /// The calls of a batch, one behind the other; kept for their memory.
    joined: Call,
    out: Vec<bf16>,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        let mut left_over = None;
        while let Some(first) = left_over.take().or_else(|| queue.blocking_recv()) {
            let mut tokens = first.call.x.len() / self.hidden;
            let mut jobs = vec![first];
            while tokens < self.batch_tokens {
                let Ok(job) = queue.try_recv() else { break };
                let more = job.call.x.len() / self.hidden;
                if tokens + more > self.batch_tokens {
                    left_over = Some(job);
                    break;
                }
                tokens += more;
                jobs.push(job);
            }
            self.answer(jobs, tokens);
        }
    }

    fn answer(&mut self, jobs: Vec<Job>, tokens: usize) {
        let joined = &mut self.joined;
        joined.x.clear();
        joined.ids.clear();
        joined.weights.clear();
        for Job { call, .. } in &jobs {
            joined.x.extend_from_slice(&call.x);
            joined.ids.extend_from_slice(&call.ids);
            joined.weights.extend_from_slice(&call.weights);
        }
        self.out.resize(tokens * self.hidden, bf16::ZERO);
        let batch = Batch::new(&joined.x, &joined.ids, &joined.weights, &mut self.out);
        let result = self.layer.apply(&self.weights, batch, &mut self.workspace);
        self.metrics.count_batch(tokens);
        let mut rows = self.out.as_slice();
        for Job { call, answer } in jobs {
            let (mine, others) = rows.split_at(call.x.len());
            rows = others;
            // A client that has gone away is no fault.
            let _ = answer.send(match &result {
                Ok(()) => Ok(mine.iter().flat_map(|y| y.to_le_bytes()).collect()),
                Err(error) => Err(Refusal::Failed(format!("{error}\n"))),
            });
        }
    }
}
