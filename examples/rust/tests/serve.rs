//! The service under many clients at once, with a full queue, and at its end. Traffic stays on 127.0.0.1.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dsv4mx::experimental::Oracle;
use dsv4mx::{Batch, Context, Dtype, Layer, LayerDesc, W13Order, bf16};
use dsv4mx_examples::{ERROR_LIMIT, Rng, Tokens, random_weights, relative_error};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::time::timeout;

const REQUESTS: usize = 1000;
const HIDDEN: usize = 1024;
const INTERMEDIATE: usize = 256;
const EXPERTS: usize = 64;
const TOP_K: usize = 6;
/// A service that hangs fails the test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(120);

struct Service {
    process: Child,
    address: SocketAddr,
}

impl Service {
    fn start(sizes: [usize; 4], more: &[&str]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_serve"))
            .args(["--listen", "127.0.0.1:0", "--random"])
            .arg(sizes.map(|n| n.to_string()).join(","))
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.strip_prefix("serve: listening on ").expect("the address");
        Self { process, address: address.trim().parse().unwrap() }
    }

    fn signal(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }

    /// It has ended by itself, without a failure.
    fn ended(mut self) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the service does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "{status}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn request(stream: &mut TcpStream, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let head = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an answer").unwrap();
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    let code = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (code, answer.split_off(end + 4))
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let (code, body) = request(&mut stream, &format!("GET {path}"), b"").await;
    (code, String::from_utf8(body).unwrap())
}

fn metric(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).expect(name);
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

fn body(tokens: &Tokens) -> Vec<u8> {
    let mut bytes: Vec<u8> = tokens.x.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.extend(tokens.ids.iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend(tokens.weights.iter().flat_map(|v| v.to_le_bytes()));
    bytes
}

/// Sends all at once. For each: the code, the body, the seconds.
async fn send_all(address: SocketAddr, bodies: Vec<Vec<u8>>) -> Vec<(u16, Vec<u8>, f64)> {
    let barrier = Arc::new(Barrier::new(bodies.len()));
    let tasks: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let barrier = barrier.clone();
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                barrier.wait().await;
                let start = Instant::now();
                let (code, body) = request(&mut stream, "POST /apply", &body).await;
                (code, body, start.elapsed().as_secs_f64())
            })
        })
        .collect();
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    answers
}

fn layer(desc: LayerDesc) -> Layer {
    let desc = desc.w13_order(W13Order::GateUp).clamp_limit(10.0);
    Layer::new(&Context::cpu().unwrap(), &desc).unwrap()
}

#[tokio::test]
async fn a_thousand_requests_at_once() {
    let service = Service::start([HIDDEN, INTERMEDIATE, EXPERTS, TOP_K], &["--seed", "5"]);
    assert_eq!(get(service.address, "/health").await, (200, "ok\n".to_owned()));
    let mut rng = Rng::new(9);
    let tokens: Vec<Tokens> =
        (0..REQUESTS).map(|_| Tokens::random(&mut rng, 1, HIDDEN, EXPERTS, TOP_K)).collect();
    let start = Instant::now();
    let answers = send_all(service.address, tokens.iter().map(body).collect()).await;
    let all = start.elapsed().as_secs_f64();

    // The same tokens through the fp64 reference.
    let desc = LayerDesc::new(HIDDEN as i32, INTERMEDIATE as i32, EXPERTS as i32, TOP_K as i32);
    let oracle = layer(desc.clone().oracle(Oracle::Truth).out_dtype(Dtype::F32));
    let weights = random_weights(&oracle, 5).unwrap();
    let x: Vec<bf16> = tokens.iter().flat_map(|t| t.x.clone()).collect();
    let ids: Vec<i32> = tokens.iter().flat_map(|t| t.ids.clone()).collect();
    let router: Vec<f32> = tokens.iter().flat_map(|t| t.weights.clone()).collect();
    let mut truth = vec![0f32; REQUESTS * HIDDEN];
    let batch = Batch::new(&x, &ids, &router, &mut truth);
    oracle.apply(&weights, batch, &mut oracle.workspace(REQUESTS).unwrap()).unwrap();
    let (mut worst, mut all_y) = (0f64, Vec::new());
    for ((code, y, _), truth) in answers.iter().zip(truth.chunks(HIDDEN)) {
        assert_eq!(*code, 200, "{}", String::from_utf8_lossy(y));
        let y: Vec<bf16> = y.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]])).collect();
        assert_eq!(y.len(), HIDDEN);
        worst = worst.max(relative_error(&y, truth));
        all_y.extend(y);
    }
    let error = relative_error(&all_y, &truth);
    assert!(error < ERROR_LIMIT && worst < 2.0 * ERROR_LIMIT, "error {error:e}, a row {worst:e}");

    // A token's answer does not depend on its batch.
    let alone = layer(desc.batch_invariant(true));
    let weights = random_weights(&alone, 5).unwrap();
    let mut y = vec![bf16::ZERO; HIDDEN];
    let first = &tokens[0];
    let batch = Batch::new(&first.x, &first.ids, &first.weights, &mut y);
    alone.apply(&weights, batch, &mut alone.workspace(1).unwrap()).unwrap();
    assert_eq!(answers[0].1, y.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());

    let (_, metrics) = get(service.address, "/metrics").await;
    assert_eq!(metric(&metrics, "dsv4mx_requests_total{code=\"200\"}"), REQUESTS as u64);
    assert_eq!(metric(&metrics, "dsv4mx_tokens_total "), REQUESTS as u64);
    assert_eq!(metric(&metrics, "dsv4mx_latency_seconds_count"), REQUESTS as u64);
    assert_eq!(metric(&metrics, "dsv4mx_queue "), 0);
    let batches = metric(&metrics, "dsv4mx_batches_total ");
    assert!(batches < REQUESTS as u64 / 2, "{batches} batches: nothing was joined");

    let mut seconds: Vec<f64> = answers.iter().map(|(_, _, seconds)| *seconds).collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "{REQUESTS} requests in {all:.2} s, {batches} batches: p50 {:.0} ms, p99 {:.0} ms, error {error:.1e}",
        1e3 * seconds[REQUESTS / 2],
        1e3 * seconds[REQUESTS * 99 / 100]
    );
    service.signal();
    service.ended();
}

#[tokio::test]
async fn a_full_queue_refuses_and_recovers() {
    // One token a call and 2 places: most of the 200 come too early.
    let more = ["--queue", "2", "--batch-tokens", "1", "--threads", "1"];
    let service = Service::start([1024, 512, 8, 6], &more);
    let mut rng = Rng::new(3);
    let token = || body(&Tokens::random(&mut rng, 1, 1024, 8, 6));
    let bodies: Vec<_> = std::iter::repeat_with(token).take(200).collect();
    let answers = send_all(service.address, bodies.clone()).await;
    let count = |code| answers.iter().filter(|(c, ..)| *c == code).count();
    let (good, busy) = (count(200), count(503));
    assert_eq!(good + busy, 200);
    assert!(good >= 3 && busy > 0, "{good} answered, {busy} refused");
    let (code, y, _) = &send_all(service.address, bodies[..1].to_vec()).await[0];
    assert_eq!((*code, y.len()), (200, 2048));
    let (_, metrics) = get(service.address, "/metrics").await;
    assert_eq!(metric(&metrics, "dsv4mx_requests_total{code=\"503\"}"), busy as u64);
    service.signal();
    service.ended();
}

#[tokio::test]
async fn bad_requests_are_told() {
    let service = Service::start([64, 32, 4, 2], &["--batch-tokens", "4"]);
    let mut answers = Vec::new();
    for body in [vec![], vec![0; 7], vec![0; 5 * (128 + 16)]] {
        answers.push(send_all(service.address, vec![body]).await.remove(0));
    }
    assert_eq!(answers.iter().map(|a| a.0).collect::<Vec<_>>(), [400, 400, 413]);
    let text = String::from_utf8(answers[1].1.clone()).unwrap();
    assert_eq!(text, "7 bytes, expected 144 for each of 1..4 tokens\n");
    assert_eq!(get(service.address, "/nothing").await.0, 404);
    // Ids outside the layer are skipped: a row of zeros.
    let mut tokens = Tokens::random(&mut Rng::new(1), 2, 64, 4, 2);
    tokens.ids.fill(99);
    let (code, y, _) = send_all(service.address, vec![body(&tokens)]).await.remove(0);
    assert_eq!((code, y), (200, vec![0; 256]));
    service.signal();
    service.ended();
}

#[tokio::test]
async fn calls_that_are_in_are_answered_at_the_end() {
    let more = ["--batch-tokens", "1", "--threads", "1"];
    let service = Service::start([1024, 512, 8, 6], &more);
    let mut rng = Rng::new(4);
    let token = || body(&Tokens::random(&mut rng, 1, 1024, 8, 6));
    let bodies: Vec<_> = std::iter::repeat_with(token).take(100).collect();
    let address = service.address;
    let sent = tokio::spawn(send_all(address, bodies));
    // Until they are in.
    let start = Instant::now();
    while metric(&get(address, "/metrics").await.1, "dsv4mx_batches_total ") == 0 {
        assert!(start.elapsed() < PATIENCE);
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    service.signal();
    let answers = sent.await.unwrap();
    assert!(answers.iter().all(|(code, y, _)| (*code, y.len()) == (200, 2048)));
    service.ended();
    assert!(TcpStream::connect(address).await.is_err());
}

#[test]
fn bad_arguments_are_told() {
    for (arguments, part) in [
        (vec!["--random", "1,2"], "four numbers"),
        (vec![], "either a checkpoint or --random"),
        (vec!["--what"], "what is '--what'?"),
        (vec!["/nonexistent"], "/nonexistent"),
        (vec!["--random", "100,32,4,2"], "UNSUPPORTED_SHAPE"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_serve")).args(arguments).output().unwrap();
        let text = String::from_utf8(out.stderr).unwrap();
        assert!(
            !out.status.success() && text.contains(part) && text.lines().count() == 1,
            "{text}"
        );
    }
}
