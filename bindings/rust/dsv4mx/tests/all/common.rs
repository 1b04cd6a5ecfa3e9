//! A small layer with random weights.

use dsv4mx::{Context, Layer, LayerDesc, Tensor, W13Order, Weights, bf16};

pub const HIDDEN: usize = 64;
pub const INTERMEDIATE: usize = 32;
pub const EXPERTS: usize = 5;
pub const TOP_K: usize = 2;

/// splitmix64
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 40) as u8).collect()
    }

    /// -1 to below 1
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

pub fn desc() -> LayerDesc {
    LayerDesc::new(HIDDEN as i32, INTERMEDIATE as i32, EXPERTS as i32, TOP_K as i32)
        .w13_order(W13Order::GateUp)
        .clamp_limit(10.0)
}

/// Name, bytes and shape of the four tensors.
pub fn tensors(seed: u64) -> Vec<(&'static str, Vec<u8>, [usize; 3])> {
    let mut rng = Rng(seed);
    let mut all = Vec::new();
    for (codes, scales, rows, k) in [
        ("w13_weight", "w13_weight_scale", 2 * INTERMEDIATE, HIDDEN),
        ("w2_weight", "w2_weight_scale", HIDDEN, INTERMEDIATE),
    ] {
        all.push((codes, rng.bytes(EXPERTS * rows * k / 2), [EXPERTS, rows, k / 2]));
        let bytes = rng.bytes(EXPERTS * rows * k / 32).iter().map(|b| 118 + b % 4).collect();
        all.push((scales, bytes, [EXPERTS, rows, k / 32]));
    }
    all
}

pub fn weights(layer: &Layer) -> Weights {
    let mut weights = Weights::new(layer).unwrap();
    for (name, bytes, shape) in tensors(1) {
        weights.set(name, &Tensor::new(&bytes, &shape).unwrap()).unwrap();
    }
    weights.prepare().unwrap();
    weights
}

pub fn layer() -> (Layer, Weights) {
    let layer = Layer::new(&Context::cpu().unwrap(), &desc()).unwrap();
    let weights = weights(&layer);
    (layer, weights)
}

pub struct Inputs {
    pub x: Vec<bf16>,
    pub ids: Vec<i32>,
    pub router_weights: Vec<f32>,
}

pub fn inputs(tokens: usize, seed: u64) -> Inputs {
    let mut rng = Rng(seed);
    Inputs {
        x: (0..tokens * HIDDEN).map(|_| bf16::from_f32(rng.value())).collect(),
        ids: (0..tokens * TOP_K).map(|_| (rng.next() % EXPERTS as u64) as i32).collect(),
        router_weights: (0..tokens * TOP_K).map(|_| 0.5 + 0.5 * rng.value()).collect(),
    }
}

pub fn relative_error(y: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(y.len(), truth.len());
    let square = |v: f64| v * v;
    let difference: f64 =
        y.iter().zip(truth).map(|(a, b)| square(f64::from(*a) - f64::from(*b))).sum();
    let norm: f64 = truth.iter().map(|b| square(f64::from(*b))).sum();
    (difference / norm).sqrt()
}

pub fn floats(y: &[bf16]) -> Vec<f32> {
    y.iter().map(|y| y.to_f32()).collect()
}
