//! Prepared experts: replaced, read back, moved, saved and restored; placements.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dsv4mx::{
    Batch, Control, Error, Layer, Slab, Snapshot, SnapshotOptions, Stage, Status, Stream, Tensor,
    Weights, WeightsState, bf16,
};

use crate::common::*;

const W13_ROWS: usize = 2 * INTERMEDIATE;

/// Prepared weights of which expert e is expert `from[e].1` of `tensors(from[e].0)`.
fn made_of(layer: &Layer, from: &[(u64, usize)]) -> Weights {
    let mut weights = Weights::new(layer).unwrap();
    fill(&mut weights, from);
    weights.prepare().unwrap();
    weights
}

fn fill(weights: &mut Weights, from: &[(u64, usize)]) {
    for (to, &(seed, expert)) in from.iter().enumerate() {
        for (name, bytes, [_, rows, columns]) in tensors(seed) {
            let part = &bytes[expert * rows * columns..(expert + 1) * rows * columns];
            weights.set_expert(name, to, &Tensor::new(part, &[rows, columns]).unwrap()).unwrap();
        }
    }
}

/// As `made_of`, all from one seed but for some.
fn mix(layer: &Layer, changes: &[(usize, (u64, usize))]) -> Weights {
    let mut from: Vec<_> = (0..EXPERTS).map(|expert| (1, expert)).collect();
    for &(to, source) in changes {
        from[to] = source;
    }
    made_of(layer, &from)
}

fn apply(layer: &Layer, weights: &Weights) -> Vec<bf16> {
    let inputs = inputs(9, 2);
    let mut y = vec![bf16::ZERO; 9 * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(weights, batch, &mut layer.workspace(9).unwrap()).unwrap();
    y
}

#[track_caller]
fn expect<T: std::fmt::Debug>(result: Result<T, Error>, status: Status, operation: &str) -> Error {
    let error = result.expect_err("a failure");
    assert_eq!((error.status(), error.operation()), (status, operation), "{error}");
    error
}

fn cancelled() -> Control<'static> {
    Control::new().progress(|_| ControlFlow::Break(()))
}

fn late() -> Control<'static> {
    Control::new().timeout(Duration::ZERO)
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn copies_are_as_if_set_anew() {
    let (layer, mut weights) = layer();
    let before = apply(&layer, &weights);
    let one = desc().experts(1).experts_global(1).top_k(1);
    let one = made_of(&Layer::new(layer.context(), &one).unwrap(), &[(7, 3)]);
    weights.replace(2, &one, 0).unwrap();
    let replaced = apply(&layer, &weights);
    assert_eq!(replaced, apply(&layer, &mix(&layer, &[(2, (7, 3))])));
    assert_ne!(replaced, before);

    let source = made_of(&layer, &[(5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]);
    let mut seen = Vec::new();
    let mut control = Control::new().timeout(Duration::from_secs(60)).progress(|p| {
        seen.push((p.stage, p.done, p.total));
        ControlFlow::Continue(())
    });
    weights.copy_experts_with(&source, &[4, 0], &[1, 2], &mut control).unwrap();
    drop(control);
    assert_eq!(seen.last(), Some(&(Stage::Convert, 2, 2)));
    let wanted = mix(&layer, &[(2, (7, 3)), (4, (5, 1)), (0, (5, 2))]);
    assert_eq!(apply(&layer, &weights), apply(&layer, &wanted));
    weights.copy_experts(&source, &[], &[]).unwrap();

    let mut filled = Weights::new(&layer).unwrap();
    filled.copy_experts(&source, &[0, 1, 2, 3], &[0, 1, 2, 3]).unwrap();
    assert!(filled.query().unwrap().tensors_missing > 0);
    filled.replace(4, &source, 4).unwrap();
    filled.prepare().unwrap();
    assert_eq!(apply(&layer, &filled), apply(&layer, &source));
}

#[test]
fn what_copies_refuse() {
    const COPY: &str = "weights_copy_experts";
    let (layer, mut weights) = layer();
    let before = apply(&layer, &weights);
    let source = made_of(&layer, &[(5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]);
    let error = expect(weights.copy_experts(&source, &[0, 1], &[0]), Status::InvalidArgument, COPY);
    assert!(error.text().contains("2 entries"), "{error}");
    expect(weights.copy_experts(&source, &[5], &[0]), Status::InvalidArgument, COPY);
    expect(weights.copy_experts(&source, &[usize::MAX], &[0]), Status::InvalidArgument, COPY);
    expect(weights.copy_experts(&source, &[1, 1], &[0, 2]), Status::InvalidArgument, COPY);
    let empty = Weights::new(&layer).unwrap();
    expect(weights.replace(0, &empty, 0), Status::InvalidState, COPY);
    let wide = dsv4mx::LayerDesc::new(96, 32, 5, 2).w13_order(dsv4mx::W13Order::GateUp);
    let mut foreign = Weights::new(&Layer::new(layer.context(), &wide).unwrap()).unwrap();
    for (name, rows, columns) in [
        ("w13_weight", W13_ROWS, 48),
        ("w13_weight_scale", W13_ROWS, 3),
        ("w2_weight", 96, 16),
        ("w2_weight_scale", 96, 1),
    ] {
        let bytes = vec![100u8; EXPERTS * rows * columns];
        foreign.set(name, &Tensor::new(&bytes, &[EXPERTS, rows, columns]).unwrap()).unwrap();
    }
    foreign.prepare().unwrap();
    expect(weights.replace(0, &foreign, 0), Status::Unsupported, COPY);
    let copied = weights.copy_experts_with(&source, &[0], &[0], &mut cancelled());
    expect(copied, Status::Cancelled, COPY);
    let copied = weights.copy_experts_with(&source, &[0], &[0], &mut late());
    expect(copied, Status::DeadlineExceeded, COPY);
    assert_eq!(apply(&layer, &weights), before);
}

#[test]
fn reset_empties() {
    let (layer, mut weights) = layer();
    weights.reset().unwrap();
    assert_eq!(weights.query().unwrap().state, WeightsState::Empty);
    fill(&mut weights, &[(5, 4), (5, 3), (5, 2), (5, 1), (5, 0)]);
    weights.prepare().unwrap();
    let same = made_of(&layer, &[(5, 4), (5, 3), (5, 2), (5, 1), (5, 0)]);
    assert_eq!(apply(&layer, &weights), apply(&layer, &same));
}

#[test]
fn get_gives_what_was_set() {
    const GET: &str = "weights_get";
    let (_, weights) = layer();
    let all = tensors(1);
    for expert in 0..EXPERTS {
        let part = |index: usize| {
            let (_, bytes, [_, rows, columns]) = &all[index];
            &bytes[expert * rows * columns..(expert + 1) * rows * columns]
        };
        let get = |name: &str| weights.get::<u8>(name, Some(expert)).unwrap();
        assert_eq!([get("w1.weight"), get("w3.weight")].concat(), part(0));
        assert_eq!([get("gate_proj.scales"), get("m.up_proj.scale")].concat(), part(1));
        assert_eq!(get("w2_weight"), part(2));
        assert_eq!(get("down_proj.weight_scale_inv"), part(3));
        let named = format!("layers.3.experts.{expert}.w2.weight");
        assert_eq!(weights.get::<u8>(&named, None).unwrap(), part(2));
        let (low, high) = part(1)
            .iter()
            .chain(part(3))
            .fold((255, 0), |(low, high), &b| (low.min(i32::from(b)), high.max(i32::from(b))));
        let info = weights.query_expert(expert).unwrap();
        assert!(info.scale_min >= low && info.scale_max <= high && info.scale_min >= 118);
    }
    // Value 0 of row 0, times its scale.
    let (code, scale) = (all[0].1[0] & 15, all[1].1[0]);
    let value = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(code & 7)]
        * 2f32.powi(i32::from(scale) - 127)
        * if code & 8 == 0 { 1.0 } else { -1.0 };
    let numbers = weights.get::<bf16>("w1.weight", Some(0)).unwrap();
    assert_eq!((numbers.len(), numbers[0].to_f32()), (INTERMEDIATE * HIDDEN, value));
    let mut to = vec![0i8; INTERMEDIATE * HIDDEN / 2];
    weights.get_with("w1.weight", Some(0), &mut to, &mut Control::new()).unwrap();
    assert_eq!(to[0] as u8, all[0].1[0]);

    let short = weights.get_with("w1.weight", Some(0), &mut to[1..], &mut Control::new());
    expect(short, Status::InvalidTensor, GET);
    expect(weights.get::<f32>("w1.weight", Some(0)), Status::InvalidTensor, GET);
    expect(weights.get::<u8>("w1.weight", Some(5)), Status::InvalidArgument, GET);
    expect(weights.get::<u8>("nonsense", Some(0)), Status::NotFound, GET);
    expect(weights.get::<u8>("w13_weight", Some(0)), Status::NotFound, GET);
    expect(weights.get::<f32>("gate_proj.bias", Some(0)), Status::NotFound, GET);
    expect(weights.get::<u8>("experts.7.w1.weight", None), Status::NotFound, GET);
    expect(weights.get::<u8>("w1\0", Some(0)), Status::InvalidArgument, GET);
    expect(weights.query_expert(5), Status::InvalidArgument, "weights_query_expert");
}

#[test]
fn get_biases() {
    let (plain, _) = layer();
    let desc = desc().w13_bias(dsv4mx::Dtype::F32).w2_bias(dsv4mx::Dtype::Bf16);
    let layer = Layer::new(plain.context(), &desc).unwrap();
    let mut weights = Weights::new(&layer).unwrap();
    fill(&mut weights, &[(1, 0), (1, 1), (1, 2), (1, 3), (1, 4)]);
    let w13: Vec<f32> = (0..EXPERTS * W13_ROWS).map(|i| i as f32).collect();
    let w2: Vec<bf16> = (0..EXPERTS * HIDDEN).map(|i| bf16::from_f32(i as f32)).collect();
    weights.set("w13_bias", &Tensor::new(&w13, &[EXPERTS, W13_ROWS]).unwrap()).unwrap();
    weights.set("w2_bias", &Tensor::new(&w2, &[EXPERTS, HIDDEN]).unwrap()).unwrap();
    weights.prepare().unwrap();
    assert_eq!(
        weights.get::<f32>("up_proj.bias", Some(1)).unwrap(),
        w13[3 * INTERMEDIATE..][..INTERMEDIATE]
    );
    assert_eq!(weights.get::<f32>("w2_bias", Some(0)).unwrap(), floats(&w2[..HIDDEN]));
}

#[test]
fn slabs_move_experts() {
    const SET: &str = "weights_set_slab";
    let (layer, mut weights) = layer();
    let source = made_of(&layer, &[(5, 0), (5, 1), (5, 2), (5, 3), (5, 4)]);
    let borrowed = source.get_slab(1).unwrap();
    weights.set_slab(0, &borrowed).unwrap();
    let owned = borrowed.copy().unwrap();
    assert_eq!(borrowed.as_slice(), owned.as_slice());
    drop(source);
    weights.set_slab(3, &owned).unwrap();
    let wanted = mix(&layer, &[(0, (5, 1)), (3, (5, 1))]);
    let wanted = apply(&layer, &wanted);
    assert_eq!(apply(&layer, &weights), wanted);

    let (id, bytes) = (owned.id(), owned.to_vec().unwrap());
    assert_eq!(bytes.len(), owned.bytes());
    let again = weights.get_slab(3).unwrap();
    assert_eq!((again.id(), again.to_vec().unwrap()), (id, bytes.clone()));
    let mut filled = Weights::new(&layer).unwrap();
    filled.set_slab(2, &Slab::new(id, bytes.as_slice())).unwrap();
    expect(weights.get_slab(5), Status::InvalidArgument, "weights_get_slab");
    expect(filled.get_slab(2), Status::InvalidState, "weights_get_slab");

    expect(weights.set_slab(5, &owned), Status::InvalidArgument, SET);
    expect(weights.set_slab(0, &Slab::new(id ^ 1, &bytes)), Status::Unsupported, SET);
    expect(weights.set_slab(0, &Slab::new(id, &bytes[1..])), Status::BufferTooSmall, SET);
    expect(weights.set_slab(0, &Slab::new(id, Vec::new())), Status::InvalidTensor, SET);
    let long = [bytes.as_slice(), &[0]].concat();
    expect(weights.set_slab(0, &Slab::new(id, long)), Status::InvalidTensor, SET);
    let nan = Slab::new(id, vec![255; bytes.len()]);
    expect(weights.set_slab(0, &nan), Status::InvalidScale, SET);
    assert_eq!(apply(&layer, &weights), wanted);
}

#[test]
fn placements_change() {
    const PLACE: &str = "layer_set_placement";
    let (mut plain, source) = layer();
    let placed = desc().placement([0, 1, 2, 3, 4]).experts_global(EXPERTS as i32);
    let mut layer = Layer::new(plain.context(), &placed).unwrap();
    let mut weights = mix(&layer, &[]);
    let before = apply(&layer, &weights);
    weights.copy_experts(&source, &[0, 1, 2, 3, 4], &[4, 2, 0, 1, 3]).unwrap();
    assert_ne!(apply(&layer, &weights), before);
    layer.set_placement(&[4, 2, 0, 1, 3], Stream::DEFAULT).unwrap();
    assert_eq!(apply(&layer, &weights), before);

    let short = layer.set_placement(&[0, 1, 2, 3], Stream::DEFAULT);
    expect(short, Status::InvalidArgument, PLACE);
    let outside = layer.set_placement(&[0, 1, 2, 3, 5], Stream::DEFAULT);
    expect(outside, Status::InvalidArgument, PLACE);
    assert_eq!(apply(&layer, &weights), before);
    let unplaced = plain.set_placement(&[0, 1, 2, 3, 4], Stream::DEFAULT);
    expect(unplaced, Status::InvalidState, PLACE);
}

#[test]
fn snapshots_give_back() {
    let (layer, weights) = layer();
    let path = file("layer.snapshot");
    let options = SnapshotOptions::new().threads(2).level(3);
    let mut stages = Vec::new();
    let mut control = Control::new().timeout(Duration::from_secs(600)).progress(|p| {
        stages.push(p.stage);
        ControlFlow::Continue(())
    });
    weights.save_with(&path, &options, &mut control).unwrap();
    drop(control);
    assert_eq!(stages.first(), Some(&Stage::Save));
    let snapshot = Snapshot::query(&path).unwrap();
    assert_eq!((snapshot.experts, snapshot.expert_first, snapshot.experts_global), (5, 0, 5));
    let slab = weights.get_slab(0).unwrap();
    assert_eq!((snapshot.slab_id, snapshot.slab_bytes), (slab.id(), slab.bytes() as i64));
    assert_eq!(snapshot.file_bytes as u64, fs::metadata(&path).unwrap().len());
    assert!(snapshot.layout.starts_with("cpu "), "{}", snapshot.layout);
    assert_eq!((snapshot.scale_min, snapshot.scale_max), (118, 121));
    let again = Layer::new(layer.context(), &snapshot.layer).unwrap();
    assert_eq!(again.query().unwrap(), layer.query().unwrap());
    let mut restored = Weights::new(&again).unwrap();
    restored.restore(&path).unwrap();
    assert_eq!(apply(&again, &restored), apply(&layer, &weights));
}

#[test]
fn what_snapshots_refuse() {
    const SAVE: &str = "weights_save";
    const RESTORE: &str = "weights_restore";
    let (layer, mut weights) = layer();
    let path = file("refused.snapshot");
    let _ = fs::remove_file(&path);
    let mut empty = Weights::new(&layer).unwrap();
    let options = SnapshotOptions::new();
    expect(empty.save(&path), Status::InvalidState, SAVE);
    expect(weights.save(file("none/x")), Status::IoError, SAVE);
    expect(weights.save_with(&path, &options, &mut cancelled()), Status::Cancelled, SAVE);
    expect(weights.save_with(&path, &options, &mut late()), Status::DeadlineExceeded, SAVE);
    let many = weights.save_with(&path, &options.clone().threads(65), &mut Control::new());
    expect(many, Status::InvalidArgument, SAVE);
    expect(weights.save("a\0b"), Status::InvalidArgument, SAVE);
    assert!(!path.exists());
    weights.save(&path).unwrap();
    expect(weights.restore(&path), Status::InvalidState, RESTORE);
    expect(empty.restore_with(&path, &options, &mut cancelled()), Status::Cancelled, RESTORE);
    expect(empty.restore(file("none")), Status::IoError, RESTORE);
    let wide = dsv4mx::LayerDesc::new(96, 32, 5, 2);
    let mut wide = Weights::new(&Layer::new(layer.context(), &wide).unwrap()).unwrap();
    expect(wide.restore(&path), Status::InvalidTensor, RESTORE);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    expect(empty.restore(&path), Status::FormatError, RESTORE);
    assert_eq!(empty.query().unwrap().state, WeightsState::Empty);
    fs::write(&path, &bytes[..20]).unwrap();
    expect(Snapshot::query(&path), Status::FormatError, "snapshot_query");
    expect(Snapshot::query(file("none")), Status::IoError, "snapshot_query");
}
