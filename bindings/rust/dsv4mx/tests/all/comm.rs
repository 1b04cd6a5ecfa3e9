//! Groups of ranks as threads: the bits of one rank, faults, and closures that fail.

use std::error::Error as _;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use dsv4mx::{
    Batch, Buffer, Comm, CommDesc, CommKind, CommStage, CommTransport, Context, Device,
    DeviceBatch, DeviceInfo, Dtype, EpCombine, Error, Layer, LayerDesc, NcclInfo, Status, Stream,
    Tensor, TpReduce, W13Order, Weights, bf16,
};

use crate::common::{Inputs, Rng};

const HIDDEN: usize = 64;
const INTERMEDIATE: usize = 64;
const EXPERTS: usize = 8;
const TOP_K: usize = 2;
const TOKENS: usize = 24;

/// A number of its own for each group of this process.
fn group() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(7_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn desc(rank: usize, size: usize) -> LayerDesc {
    let held = EXPERTS / size;
    LayerDesc::new(HIDDEN as i32, INTERMEDIATE as i32, held as i32, TOP_K as i32)
        .experts_global(EXPERTS as i32)
        .expert_first((rank * held) as i32)
        .w13_order(W13Order::GateUp)
        .slot_dtype(Dtype::Bf16)
        .batch_invariant(true)
}

/// The part of rank `rank` of `size`: an equal share of the experts.
fn part(context: &Context, rank: usize, size: usize) -> (Layer, Weights) {
    let held = EXPERTS / size;
    let layer = Layer::new(context, &desc(rank, size)).unwrap();
    let mut weights = Weights::new(&layer).unwrap();
    let mut rng = Rng(3);
    for (name, rows, k) in [("w13", 2 * INTERMEDIATE, HIDDEN), ("w2", HIDDEN, INTERMEDIATE)] {
        let bytes = rows * k / 2;
        let all = rng.bytes(EXPERTS * bytes);
        let codes = &all[rank * held * bytes..][..held * bytes];
        let scales = vec![120u8; held * rows * k / 32];
        let codes = Tensor::new(codes, &[held, rows, k / 2]).unwrap();
        weights.set(&format!("{name}_weight"), &codes).unwrap();
        let scales = Tensor::new(&scales, &[held, rows, k / 32]).unwrap();
        weights.set(&format!("{name}_weight_scale"), &scales).unwrap();
    }
    weights.prepare().unwrap();
    (layer, weights)
}

fn inputs() -> Inputs {
    let mut rng = Rng(4);
    Inputs {
        x: (0..TOKENS * HIDDEN).map(|_| bf16::from_f32(rng.value())).collect(),
        ids: (0..TOKENS).flat_map(|t| [(t * 3 % EXPERTS) as i32, (t * 5 + 1) as i32 % 8]).collect(),
        router_weights: (0..TOKENS * TOP_K).map(|_| 0.5 + 0.5 * rng.value()).collect(),
    }
}

fn sized(desc: CommDesc) -> CommDesc {
    desc.max_tokens(TOKENS).max_hidden(HIDDEN as i32).max_top_k(TOP_K as i32)
}

/// `body(rank)` on a thread each.
fn on_ranks<R: Send>(size: usize, body: impl Fn(usize) -> R + Sync) -> Vec<R> {
    thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = (0..size).map(|rank| scope.spawn(move || body(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// This rank's tokens through the whole layer.
fn apply(
    comm: &mut Comm,
    layer: &Layer,
    weights: &Weights,
    rank: usize,
    size: usize,
    tag: u32,
) -> Result<Vec<bf16>, Error> {
    let inputs = inputs();
    let rows = TOKENS * rank / size..TOKENS * (rank + 1) / size;
    let pairs = rows.start * TOP_K..rows.end * TOP_K;
    let mut y = vec![bf16::ZERO; rows.len() * HIDDEN];
    let mut workspace = comm.workspace(layer, rows.len())?;
    let batch = Batch::new(
        &inputs.x[rows.start * HIDDEN..rows.end * HIDDEN],
        &inputs.ids[pairs.clone()],
        &inputs.router_weights[pairs],
        &mut y,
    );
    layer.apply(weights, batch.comm(comm).comm_tag(tag), &mut workspace)?;
    Ok(y)
}

/// The bits of one rank that holds everything.
fn whole() -> Vec<bf16> {
    let (layer, weights) = part(&Context::cpu().unwrap(), 0, 1);
    let mut y = vec![bf16::ZERO; TOKENS * HIDDEN];
    let inputs = inputs();
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(&weights, batch, &mut layer.workspace(TOKENS).unwrap()).unwrap();
    y
}

fn bits(y: &[bf16]) -> Vec<u16> {
    y.iter().map(|y| y.to_bits()).collect()
}

#[test]
fn the_bits_of_one_rank() {
    let wanted = whole();
    for size in [1, 2, 4] {
        let group = group();
        let outs = on_ranks(size, |rank| {
            let context = Context::cpu().unwrap();
            let (layer, weights) = part(&context, rank, size);
            let desc = sized(CommDesc::local(rank as i32, size as i32, group));
            let mut comm = Comm::new(&context, desc).unwrap();
            comm.prepare(&layer).unwrap();
            let info = comm.query().unwrap();
            assert_eq!(
                (info.rank, info.size, info.ep_rank),
                (rank as i32, size as i32, rank as i32)
            );
            assert_eq!(info.kind, CommKind::Local);
            let y = apply(&mut comm, &layer, &weights, rank, size, 3).unwrap();
            match comm.loads(&layer) {
                Ok(loads) => assert_eq!(loads.len(), EXPERTS / size),
                Err(error) => assert_eq!((error.status(), size), (Status::InvalidState, 1)),
            }
            assert_eq!(comm.query_faults().unwrap().status, Status::Ok);
            y
        });
        assert_eq!(bits(&outs.concat()), bits(&wanted), "{size} ranks");
    }
}

/// Ranks take the GPUs in turn; where there are fewer than ranks, several share one.
#[test]
fn the_bits_of_one_rank_on_gpus() {
    let gpus = match DeviceInfo::query(Device::Cuda, 0) {
        Ok(info) if info.supported => DeviceInfo::count(Device::Cuda).unwrap(),
        _ => {
            println!("skipped: no CUDA device that the library supports");
            return;
        }
    };
    let inputs = inputs();
    let run = |rank: usize, size: usize, group: u64| {
        let context = Context::cuda(rank as i32 % gpus).unwrap();
        let (layer, weights) = part(&context, rank, size);
        let desc = match size {
            1 => CommDesc::single(),
            _ => CommDesc::local(rank as i32, size as i32, group),
        };
        let mut comm = Comm::new(&context, sized(desc)).unwrap();
        comm.prepare(&layer).unwrap();
        let rows = TOKENS * rank / size..TOKENS * (rank + 1) / size;
        let pairs = rows.start * TOP_K..rows.end * TOP_K;
        let mut y = vec![bf16::ZERO; rows.len() * HIDDEN];
        let values = &inputs.x[rows.start * HIDDEN..rows.end * HIDDEN];
        let x = Buffer::from_slice(&context, values).unwrap();
        let ids = Buffer::from_slice(&context, &inputs.ids[pairs.clone()]).unwrap();
        let router = Buffer::from_slice(&context, &inputs.router_weights[pairs]).unwrap();
        let mut out = Buffer::from_slice(&context, &y).unwrap();
        let mut workspace = comm.workspace(&layer, rows.len()).unwrap();
        let (x, ids, router) = (x.as_ptr(), ids.as_ptr(), router.as_ptr());
        let batch = DeviceBatch::new(rows.len(), x, ids, router, out.as_mut_ptr())
            .workspace(workspace.as_mut_ptr(), workspace.bytes())
            .comm(&mut comm);
        // SAFETY: buffers of the layer's types and sizes, which live until the copy below has waited.
        unsafe { layer.apply_device(&weights, &batch, Stream::DEFAULT).unwrap() };
        out.copy_to(&mut y).unwrap();
        assert_eq!(comm.query_faults().unwrap().status, Status::Ok);
        y
    };
    let wanted = run(0, 1, 0);
    assert!(wanted.iter().any(|y| *y != bf16::ZERO));
    for size in [2, 4] {
        let group = group();
        let outs = on_ranks(size, |rank| run(rank, size, group));
        assert_eq!(bits(&outs.concat()), bits(&wanted), "{size} ranks on {gpus} GPUs");
    }
}

#[test]
fn a_rank_without_tokens_takes_part() {
    let group = group();
    let outs = on_ranks(2, |rank| {
        let context = Context::cpu().unwrap();
        let (layer, weights) = part(&context, rank, 2);
        let desc = sized(CommDesc::local(rank as i32, 2, group));
        let mut comm = Comm::new(&context, desc).unwrap();
        comm.prepare(&layer).unwrap();
        let inputs = inputs();
        let tokens = if rank == 0 { TOKENS } else { 0 };
        let mut y = vec![bf16::ZERO; tokens * HIDDEN];
        let batch = Batch::new(
            &inputs.x[..tokens * HIDDEN],
            &inputs.ids[..tokens * TOP_K],
            &inputs.router_weights[..tokens * TOP_K],
            &mut y,
        );
        let mut workspace = comm.workspace(&layer, tokens).unwrap();
        let batch = batch.comm(&mut comm).comm_tokens(TOKENS);
        layer.apply(&weights, batch, &mut workspace).unwrap();
        y
    });
    assert_eq!(bits(&outs.concat()), bits(&whole()));
}

#[test]
fn tensor_parallel_ranks_share_their_tokens() {
    let group = group();
    let wanted = whole();
    let outs = on_ranks(2, |rank| {
        let context = Context::cpu().unwrap();
        let share = INTERMEDIATE / 2;
        let desc = desc(0, 1).tp_rank(rank as i32).tp_size(2);
        let layer = Layer::new(&context, &desc).unwrap();
        let mut weights = Weights::new(&layer).unwrap();
        let mut rng = Rng(3);
        let w13 = rng.bytes(EXPERTS * 2 * INTERMEDIATE * HIDDEN / 2);
        let w2 = rng.bytes(EXPERTS * HIDDEN * INTERMEDIATE / 2);
        // Rows of gate and up, columns of down.
        let row = HIDDEN / 2;
        let w13: Vec<u8> = w13
            .chunks(INTERMEDIATE * row)
            .flat_map(|half| half[rank * share * row..][..share * row].to_vec())
            .collect();
        let w2: Vec<u8> = w2
            .chunks(INTERMEDIATE / 2)
            .flat_map(|line| line[rank * share / 2..][..share / 2].to_vec())
            .collect();
        for (name, codes, rows, k) in [("w13", w13, 2 * share, HIDDEN), ("w2", w2, HIDDEN, share)] {
            let scales = vec![120u8; EXPERTS * rows * k / 32];
            let codes = Tensor::new(&codes, &[EXPERTS, rows, k / 2]).unwrap();
            weights.set(&format!("{name}_weight"), &codes).unwrap();
            let scales = Tensor::new(&scales, &[EXPERTS, rows, k / 32]).unwrap();
            weights.set(&format!("{name}_weight_scale"), &scales).unwrap();
        }
        weights.prepare().unwrap();
        let comm = sized(CommDesc::local(rank as i32, 2, group)).tp_size(2);
        let mut comm = Comm::new(&context, comm).unwrap();
        comm.prepare(&layer).unwrap();
        assert_eq!(comm.query().unwrap().tp_rank, rank as i32);
        apply(&mut comm, &layer, &weights, 0, 1, 0).unwrap()
    });
    assert_eq!(bits(&outs[0]), bits(&outs[1]));
    let floats = |y: &[bf16]| y.iter().map(|y| y.to_f32()).collect::<Vec<_>>();
    assert!(crate::common::relative_error(&floats(&outs[0]), &floats(&wanted)) < 5e-3);
}

#[test]
fn a_rank_that_does_not_come() {
    let context = Context::cpu().unwrap();
    let desc = sized(CommDesc::local(0, 2, group())).timeout(Duration::from_millis(100));
    let start = Instant::now();
    let error = Comm::new(&context, desc).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::CommTimeout, "comm_create"));
    assert!(error.text().contains("rank 1 of 2 did not join"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn what_differs_is_named_on_every_rank() {
    let group = group();
    let errors = on_ranks(2, |rank| {
        let desc = sized(CommDesc::local(rank as i32, 2, group)).max_tokens(TOKENS + rank);
        Comm::new(&Context::cpu().unwrap(), desc).unwrap_err()
    });
    for error in errors {
        assert_eq!(error.status(), Status::CommMismatch, "{error}");
        assert!(error.text().contains("max_tokens"), "{error}");
    }
}

#[test]
fn what_a_layer_cannot_keep_is_refused() {
    let group = group();
    let errors = on_ranks(2, |rank| {
        let context = Context::cpu().unwrap();
        let plain = Layer::new(&context, &desc(rank, 2).batch_invariant(false)).unwrap();
        let desc = sized(CommDesc::local(rank as i32, 2, group));
        let mut comm = Comm::new(&context, desc).unwrap();
        comm.prepare(&plain).unwrap_err()
    });
    for error in errors {
        assert_eq!((error.status(), error.operation()), (Status::Unsupported, "comm_prepare"));
        assert!(error.text().contains("BATCH_INVARIANT"), "{error}");
    }
}

/// Something that one rank waits for, but not for ever: the other one may have failed.
#[derive(Default)]
struct Flag(Mutex<bool>, Condvar);

impl Flag {
    fn set(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        let guard = self.0.lock().unwrap();
        drop(self.1.wait_timeout_while(guard, Duration::from_secs(10), |set| !*set).unwrap());
    }
}

/// Each fault in apply, on every rank that is left, and a reset where all are alive.
#[test]
fn faults_in_apply() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Fault {
        Tag,
        Skip,
        Gone,
        Abort,
    }
    for (fault, status) in [
        (Fault::Tag, Status::CommMismatch),
        (Fault::Skip, Status::CommTimeout),
        (Fault::Gone, Status::CommRankLost),
        (Fault::Abort, Status::CommRankLost),
    ] {
        let group = group();
        let (ready, seen) = (Flag::default(), Flag::default());
        on_ranks(2, |rank| {
            let context = Context::cpu().unwrap();
            let (layer, weights) = part(&context, rank, 2);
            let desc = sized(CommDesc::local(rank as i32, 2, group));
            let mut comm = Comm::new(&context, desc.timeout(Duration::from_millis(400))).unwrap();
            comm.prepare(&layer).unwrap();
            apply(&mut comm, &layer, &weights, rank, 2, 1).unwrap();
            // The other one may still be in the call that is to go well.
            if rank == 0 {
                ready.set()
            } else {
                ready.wait()
            }
            match (rank, fault) {
                (1, Fault::Gone) => return,
                (1, Fault::Skip) => {}
                (1, Fault::Abort) => comm.abort().unwrap(),
                _ => {
                    let tag = if fault == Fault::Tag { rank as u32 } else { 2 };
                    let error = apply(&mut comm, &layer, &weights, rank, 2, tag).unwrap_err();
                    assert_eq!(error.status(), status, "{fault:?}: {error}");
                    let found = comm.query_faults().unwrap();
                    assert_eq!(found.status, status);
                    assert_eq!(found.stage == CommStage::None, fault == Fault::Abort);
                    if fault != Fault::Tag {
                        assert_eq!(found.rank, Some(1), "{found:?}");
                    }
                    // From now on at once.
                    let again = apply(&mut comm, &layer, &weights, rank, 2, 2).unwrap_err();
                    assert_eq!(again.status(), status);
                }
            }
            if rank == 0 {
                seen.set()
            } else {
                seen.wait()
            }
            if fault != Fault::Gone {
                comm.reset().unwrap();
                assert_eq!(comm.query_faults().unwrap().status, Status::Ok);
                apply(&mut comm, &layer, &weights, rank, 2, 5).unwrap();
            }
        });
    }
}

#[test]
fn another_thread_ends_a_call() {
    let group = group();
    let handles = Mutex::new(Vec::new());
    on_ranks(2, |rank| {
        let context = Context::cpu().unwrap();
        let (layer, weights) = part(&context, rank, 2);
        let desc = sized(CommDesc::local(rank as i32, 2, group));
        let mut comm = Comm::new(&context, desc).unwrap();
        comm.prepare(&layer).unwrap();
        let handle = comm.abort_handle();
        handles.lock().unwrap().push(handle.clone());
        if rank == 1 {
            return; // it leaves the group
        }
        let waiting = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            handle.abort().unwrap();
            handle.query_faults().unwrap()
        });
        let error = apply(&mut comm, &layer, &weights, rank, 2, 0).unwrap_err();
        assert_eq!(error.status(), Status::CommRankLost);
        assert_eq!(waiting.join().unwrap().unwrap().status, Status::CommRankLost);
    });
    for handle in handles.into_inner().unwrap() {
        handle.abort().unwrap();
        assert_eq!(handle.query_faults().unwrap(), None);
    }
}

/// An all-gather over a barrier and a table, as a store would do it.
struct Table {
    rows: Mutex<Vec<Vec<u8>>>,
    turn: Barrier,
}

impl Table {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { rows: Mutex::new(vec![Vec::new(); size]), turn: Barrier::new(size) })
    }

    fn all_gather(&self, rank: usize, mine: &[u8], all: &mut [u8]) {
        self.rows.lock().unwrap()[rank] = mine.to_vec();
        self.turn.wait();
        all.copy_from_slice(&self.rows.lock().unwrap().concat());
        self.turn.wait();
    }
}

#[test]
fn ranks_meet_over_the_callers_all_gather() {
    let wanted = whole();
    for transport in [CommTransport::Auto, CommTransport::Collective] {
        let table = Table::new(2);
        let outs = on_ranks(2, |rank| {
            let context = Context::cpu().unwrap();
            let (layer, weights) = part(&context, rank, 2);
            let table = table.clone();
            let desc = CommDesc::callback(rank as i32, 2, move |mine: &[u8], all: &mut [u8]| {
                table.all_gather(rank, mine, all);
                Ok::<(), std::io::Error>(())
            });
            let mut comm = Comm::new(&context, sized(desc).transport(transport)).unwrap();
            comm.prepare(&layer).unwrap();
            apply(&mut comm, &layer, &weights, rank, 2, 0).unwrap()
        });
        assert_eq!(bits(&outs.concat()), bits(&wanted), "{transport}");
    }
}

#[test]
fn an_all_gather_that_fails_is_the_source() {
    let desc = CommDesc::callback(0, 2, |_: &[u8], _: &mut [u8]| {
        Err(std::io::Error::other("the store is gone"))
    });
    let error = Comm::new(&Context::cpu().unwrap(), sized(desc)).unwrap_err();
    assert_eq!(error.status(), Status::CommError);
    assert!(error.text().contains("all_gather returned 1"), "{error}");
    assert_eq!(error.source().unwrap().to_string(), "the store is gone");
    assert!(error.source().unwrap().is::<std::io::Error>());
}

#[test]
fn an_all_gather_that_panics_goes_on_behind_the_call() {
    let desc = CommDesc::callback(0, 2, |_: &[u8], _: &mut [u8]| -> Result<(), std::io::Error> {
        panic!("no such rank")
    });
    let caught = std::panic::catch_unwind(AssertUnwindSafe(|| {
        Comm::new(&Context::cpu().unwrap(), sized(desc))
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"no such rank"));
}

#[test]
fn a_group_of_one_needs_nobody() {
    let context = Context::cpu().unwrap();
    let mut comm = Comm::new(&context, CommDesc::single()).unwrap();
    let (layer, weights) = part(&context, 0, 1);
    comm.prepare(&layer).unwrap();
    assert_eq!(comm.query().unwrap().kind, CommKind::SelfOnly);
    assert_eq!(bits(&apply(&mut comm, &layer, &weights, 0, 1, 0).unwrap()), bits(&whole()));
}

#[test]
fn options_reach_the_library() {
    type Change = fn(CommDesc, usize) -> CommDesc;
    let changes: [(&str, Change); 9] = [
        ("tp_size", |d, _| d.tp_size(3)),
        ("max_hidden", |d, _| d.max_hidden(-1)),
        ("max_top_k", |d, _| d.max_top_k(17)),
        ("slot_dtype", |d, _| d.slot_dtype(Dtype::I64)),
        ("partial_dtype", |d, _| d.partial_dtype(Dtype::I64)),
        ("tp_slices", |d, _| d.tp_reduce(TpReduce::Invariant).tp_slices(3)),
        ("ep_combine", |d, _| d.ep_combine(EpCombine::Unknown(9))),
        ("transport", |d, _| d.transport(CommTransport::Unknown(9))),
        ("flags", |d, rank| if rank == 0 { d.no_split() } else { d.forbid_multicast() }),
    ];
    for (what, change) in changes {
        let group = group();
        for error in on_ranks(2, |rank| {
            let desc = change(sized(CommDesc::local(rank as i32, 2, group)), rank);
            let desc = desc.timeout(Duration::from_millis(200));
            Comm::new(&Context::cpu().unwrap(), desc).expect_err(what)
        }) {
            assert_ne!(error.status(), Status::CommTimeout, "{what}: {error}");
            assert!(error.text().contains(what), "{what}: {error}");
        }
    }
}

#[test]
fn nccl_that_is_not_there_is_told() {
    let error = NcclInfo::query(Some("/nonexistent/libnccl.so.2".as_ref())).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::NcclUnavailable, "nccl_query"));
    assert!(error.text().contains("/nonexistent/libnccl.so.2"), "{error}");
    let error = NcclInfo::unique_id(Some("/nonexistent/libnccl.so.2".as_ref())).unwrap_err();
    assert_eq!(
        (error.status(), error.operation()),
        (Status::NcclUnavailable, "nccl_get_unique_id")
    );
    let desc = CommDesc::nccl_id(0, 2, [0; 128]).nccl_path("/nonexistent/libnccl.so.2");
    let error = Comm::new(&Context::cpu().unwrap(), sized(desc)).unwrap_err();
    assert_eq!(error.status(), Status::NcclUnavailable, "{error}");
}
