//! A random layer on the CPU, applied to 8 tokens.
use dsv4mx::{Batch, Context, Layer, LayerDesc, Tensor, W13Order, Weights, bf16};

fn random(n: usize) -> Vec<u8> {
    (0..n as u32).map(|i| (i.wrapping_mul(2654435761) >> 23) as u8).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (hidden, intermediate, experts, tokens) = (256, 128, 8, 8);
    let desc = LayerDesc::new(256, 128, 8, 2).w13_order(W13Order::GateUp).clamp_limit(10.0);
    let layer = Layer::new(&Context::cpu()?, &desc)?;
    let mut weights = Weights::new(&layer)?;
    for (name, rows, k) in [("w13", 2 * intermediate, hidden), ("w2", hidden, intermediate)] {
        let codes = random(experts * rows * k / 2); // two E2M1 codes a byte
        let scales = vec![120u8; experts * rows * k / 32]; // one E8M0 scale for 32: 2^(120 - 127)
        let scales = Tensor::new(&scales, &[experts, rows, k / 32])?;
        weights.set(&format!("{name}_weight"), &Tensor::new(&codes, &[experts, rows, k / 2])?)?;
        weights.set(&format!("{name}_weight_scale"), &scales)?;
    }
    weights.prepare()?;
    let bytes = random(tokens * hidden);
    let x: Vec<bf16> = bytes.iter().map(|&b| bf16::from_f32(f32::from(b) / 256.0)).collect();
    let ids: Vec<i32> = (0..16).map(|pair| pair * 3 % 8).collect();
    let mut y = vec![bf16::ZERO; tokens * hidden];
    let batch = Batch::new(&x, &ids, &[0.5f32; 16], &mut y);
    layer.apply(&weights, batch, &mut layer.workspace(tokens)?)?;
    println!("{}: y[0] begins {:?}", layer.query()?.backend, &y[..4]);
    Ok(())
}
