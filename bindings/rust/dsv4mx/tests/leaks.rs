//! Memory, handles and threads stay flat over many objects and calls. A process of its own: nothing else allocates.

use std::fs;

use dsv4mx::{
    Batch, Checkpoint, Comm, CommDesc, Context, Device, Layer, LayerDesc, W13Order, Weights, bf16,
};

fn resident_kib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).unwrap().count()
}

/// Memory, files and threads. A thread that was joined may stand in /proc for a moment more.
fn state() -> (usize, usize, usize) {
    std::thread::sleep(std::time::Duration::from_millis(100));
    (resident_kib(), entries("/proc/self/fd"), entries("/proc/self/task"))
}

/// Runs once to warm up, then `pairs` times; what is used must not have grown.
fn flat(what: &str, pairs: usize, mut pair: impl FnMut()) {
    for _ in 0..(pairs / 10).max(1) {
        pair();
    }
    let before = state();
    for _ in 0..pairs {
        pair();
    }
    let after = state();
    println!(
        "{what}: {pairs} pairs, {} -> {} KiB, {} -> {} files, {} -> {} threads",
        before.0, after.0, before.1, after.1, before.2, after.2
    );
    assert!(after.0 <= before.0 + 512, "{what}: memory grew from {} to {} KiB", before.0, after.0);
    assert_eq!((before.1, before.2), (after.1, after.2), "{what}: handles or threads");
}

#[test]
fn everything_is_given_back() {
    let scale: usize =
        std::env::var("DSV4MX_LEAK_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let context = Context::cpu().unwrap();
    let desc = LayerDesc::new(32, 32, 2, 1).w13_order(W13Order::GateUp);
    let layer = Layer::new(&context, &desc).unwrap();
    flat("layers", scale, || drop(Layer::new(&context, &desc).unwrap()));
    flat("weights", scale, || drop(Weights::new(&layer).unwrap()));
    flat("workspaces", scale, || drop(layer.workspace(1).unwrap()));
    flat("communicators", scale, || drop(Comm::new(&context, CommDesc::single()).unwrap()));
    flat("groups of two", scale / 1000, || {
        std::thread::scope(|scope| {
            for rank in 0..2 {
                let desc = CommDesc::local(rank, 2, 1).max_tokens(1).max_hidden(32).max_top_k(1);
                let context = &context;
                scope.spawn(move || drop(Comm::new(context, desc).unwrap()));
            }
        });
    });
    flat("errors", scale, || {
        drop(Layer::new(&context, &LayerDesc::new(33, 32, 2, 1)).unwrap_err());
    });
    flat("files that are not there", scale / 10, || {
        drop(Checkpoint::open("/nonexistent").unwrap_err())
    });
    // A context has threads of its own.
    flat("contexts", scale / 100, || {
        drop(Context::builder().device(Device::Cpu).threads(2).build().unwrap());
    });

    let mut weights = Weights::new(&layer).unwrap();
    for (name, rows) in [("w13", 64), ("w2", 32)] {
        let codes = vec![0x21u8; 2 * rows * 16];
        let scales = vec![120u8; 2 * rows];
        weights
            .set(&format!("{name}_weight"), &dsv4mx::Tensor::new(&codes, &[2, rows, 16]).unwrap())
            .unwrap();
        weights
            .set(
                &format!("{name}_weight_scale"),
                &dsv4mx::Tensor::new(&scales, &[2, rows, 1]).unwrap(),
            )
            .unwrap();
    }
    weights.prepare().unwrap();
    let x = vec![bf16::ONE; 32];
    let mut workspace = layer.workspace(1).unwrap();
    let mut y = vec![bf16::ZERO; 32];
    flat("applies", scale, || {
        let batch = Batch::new(&x, &[1i32], &[1f32], &mut y);
        layer.apply(&weights, batch, &mut workspace).unwrap();
    });
}
