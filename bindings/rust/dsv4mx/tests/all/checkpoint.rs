//! A file of tensors, written here byte by byte.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use dsv4mx::{
    Batch, Block, Checkpoint, CheckpointOptions, Control, Dtype, Layer, ModelOptions, Stage,
    Status, Weights, bf16,
};

use crate::common::*;

/// The tensors of `common::tensors` as a file in DeepSeek's naming, with separate gate and up.
fn write(name: &str) -> PathBuf {
    let all = tensors(1);
    let mut entries = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    let mut add = |name: String, dtype: &str, shape: [usize; 2], bytes: &[u8]| {
        let begin = data.len();
        data.extend_from_slice(bytes);
        entries.push(format!(
            "\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":[{},{}],\"data_offsets\":[{begin},{}]}}",
            shape[0],
            shape[1],
            data.len()
        ));
    };
    for expert in 0..EXPERTS {
        for (index, dtype, kind) in [(0, "I8", "weight"), (1, "F8_E8M0", "scale")] {
            let (_, w13, [_, rows, columns]) = &all[index];
            let part = &w13[expert * rows * columns..(expert + 1) * rows * columns];
            let (gate, up) = part.split_at(part.len() / 2);
            let prefix = format!("layers.3.ffn.experts.{expert}");
            add(format!("{prefix}.w1.{kind}"), dtype, [rows / 2, *columns], gate);
            add(format!("{prefix}.w3.{kind}"), dtype, [rows / 2, *columns], up);
            let (_, w2, [_, rows, columns]) = &all[index + 2];
            let part = &w2[expert * rows * columns..(expert + 1) * rows * columns];
            add(format!("{prefix}.w2.{kind}"), dtype, [*rows, *columns], part);
        }
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&data);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_file_gives_the_layer() {
    let path = write("whole.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    assert_eq!(checkpoint.count(), 6 * EXPERTS);
    assert_eq!(checkpoint.names().count(), 6 * EXPERTS);
    assert_eq!(checkpoint.name(0), Some("layers.3.ffn.experts.0.w1.scale"));
    assert_eq!(checkpoint.name(6 * EXPERTS), None);
    let info = checkpoint.tensor_info("layers.3.ffn.experts.4.w2.weight").unwrap();
    assert_eq!((info.dtype, info.shape), (Dtype::I8, vec![HIDDEN, INTERMEDIATE / 2]));

    let block = Block::Layer(3);
    let desc = checkpoint.query_layer(&block).unwrap().top_k(TOP_K as i32).clamp_limit(10.0);
    let (expected_layer, expected_weights) = layer();
    let layer = Layer::new(expected_layer.context(), &desc).unwrap();
    let mut weights = Weights::new(&layer).unwrap();
    let mut stages = Vec::new();
    let mut control = Control::new().progress(|progress| {
        stages.push((progress.stage, progress.done, progress.total));
        ControlFlow::Continue(())
    });
    weights.load_with(&checkpoint, &block, 1 << 20, &mut control).unwrap();
    drop(control);
    let (stage, done, total) = *stages.last().unwrap();
    assert!(stage == Stage::Load && done == total && total > 0, "{stages:?}");
    weights.prepare().unwrap();

    let inputs = inputs(3, 2);
    let run = |layer: &Layer, weights: &Weights| {
        let mut y = vec![bf16::ZERO; 3 * HIDDEN];
        let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
        layer.apply(weights, batch, &mut layer.workspace(3).unwrap()).unwrap();
        y
    };
    assert_eq!(run(&layer, &weights), run(&expected_layer, &expected_weights));
}

#[test]
fn bytes_and_mapping() {
    let path = write("bytes.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let name = "layers.3.ffn.experts.2.w2.scale";
    let size = HIDDEN * INTERMEDIATE / 32;
    let (mut all, mut part) = (vec![0; size], vec![0; 7]);
    checkpoint.read(name, 0, &mut all).unwrap();
    checkpoint.read(name, 5, &mut part).unwrap();
    assert_eq!(all[5..12], part);
    let expected = &tensors(1)[3].1[2 * size..3 * size];
    assert_eq!(all, expected);
    // SAFETY: nobody changes the file.
    let tensor = unsafe { checkpoint.tensor(name).unwrap() };
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::E8m0, vec![HIDDEN, INTERMEDIATE / 32]));

    let error = checkpoint.read(name, size, &mut part).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::InvalidArgument, "checkpoint_read"));
    let error = checkpoint.tensor_info("nothing").unwrap_err();
    assert_eq!(error.status(), Status::NotFound);
    let error = checkpoint.query_layer(&Block::Layer(4)).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::NotFound, "checkpoint_query_layer"));
}

#[test]
fn options_and_prefixes() {
    let path = write("options.safetensors");
    let options = CheckpointOptions::new().prefix("layers.3.ffn.experts.1.").threads(1);
    let checkpoint = Checkpoint::open_with(&path, &options, &mut Control::new()).unwrap();
    assert_eq!(checkpoint.count(), 6);
    let all = Checkpoint::open(&path).unwrap();
    let by_prefix = all.query_layer(&Block::Prefix("layers.3.ffn.".into())).unwrap();
    let by_number = all.query_layer(&Block::Layer(3)).unwrap();
    assert_eq!(format!("{by_prefix:?}"), format!("{by_number:?}"));
    let mut cancelled = Control::new().progress(|_| ControlFlow::Break(()));
    let error =
        Checkpoint::open_with(&path, &CheckpointOptions::new(), &mut cancelled).unwrap_err();
    assert_eq!(error.status(), Status::Cancelled);
}

#[test]
fn damaged_files() {
    let path = write("damaged.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = Checkpoint::open(&path).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::FormatError, "checkpoint_create"));
}

#[test]
fn blocks_and_the_whole_model() {
    let path = write("model.safetensors");
    let checkpoint = Checkpoint::open(&path).unwrap();
    let blocks = checkpoint.blocks().unwrap();
    assert_eq!((checkpoint.block_count(), blocks.len()), (1, 1));
    assert_eq!((&blocks[0].block, blocks[0].prefix.as_str()), (&Block::Layer(3), "layers.3.ffn."));
    assert_eq!(checkpoint.block(1).unwrap_err().status(), Status::InvalidArgument);
    let by_prefix = Block::Prefix(blocks[0].prefix.clone());
    let desc = checkpoint.query_layer(&by_prefix).unwrap().top_k(TOP_K as i32);

    let (expected, _) = layer();
    let layer = Layer::new(expected.context(), &desc).unwrap();
    let options = ModelOptions::new().layer(desc).max_tokens(64);
    let info = checkpoint.query_model(layer.context(), &options).unwrap();
    let (one, workspace) = (layer.query().unwrap(), layer.query_workspace(64).unwrap());
    assert_eq!((info.blocks, info.blocks_fitting), (1, Some(1)));
    assert_eq!(
        (info.prepared_bytes, info.largest_block_bytes),
        (one.prepared_bytes, one.prepared_bytes)
    );
    assert_eq!(info.peak_extra_bytes, one.peak_extra_bytes);
    assert_eq!(info.workspace_bytes, workspace.bytes as i64);
    assert_eq!(info.source_bytes, (EXPERTS * 3 * HIDDEN * INTERMEDIATE * 17 / 32) as i64);
    assert!(info.free_bytes.unwrap() <= info.total_bytes);
    let spread = checkpoint.query_model(layer.context(), &options.clone().ep_size(2)).unwrap();
    assert!(spread.prepared_bytes < info.prepared_bytes);
    let error = checkpoint.query_model(layer.context(), &options.tp_size(1000)).unwrap_err();
    assert_eq!(error.status(), Status::UnsupportedShape);
}
