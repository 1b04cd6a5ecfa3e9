//! What the examples share: numbers, a random layer, and the comparison with a reference.

use dsv4mx::{Layer, Result, Tensor, Weights, bf16};

/// splitmix64 (Steele, Lea, Flood): any seed will do.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream of numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0 to below n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Between 0 and 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }

    /// About normal: the sum of twelve uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }
}

/// Tokens with their expert ids and router weights.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// `[tokens, hidden]`
    pub x: Vec<bf16>,
    /// `[tokens, top_k]`
    pub ids: Vec<i32>,
    /// `[tokens, top_k]`
    pub weights: Vec<f32>,
}

impl Tokens {
    /// Random tokens, each with different experts and router weights that add up to 1. Where there are fewer experts than
    /// slots, the rest is -1: skipped.
    pub fn random(
        rng: &mut Rng,
        tokens: usize,
        hidden: usize,
        experts: usize,
        top_k: usize,
    ) -> Self {
        let x = (0..tokens * hidden).map(|_| bf16::from_f32(rng.normal())).collect();
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..tokens {
            let mut chosen: Vec<i32> = Vec::new();
            while chosen.len() < top_k.min(experts) {
                let id = rng.below(experts) as i32;
                if !chosen.contains(&id) {
                    chosen.push(id);
                }
            }
            chosen.resize(top_k, -1);
            let raw: Vec<f32> = chosen.iter().map(|_| 0.1 + rng.uniform()).collect();
            let sum: f32 = raw.iter().sum();
            weights.extend(raw.iter().map(|w| w / sum));
            ids.extend(chosen);
        }
        Self { x, ids, weights }
    }
}

/// Prepared random weights: all codes, and scales around 2^-7.
pub fn random_weights(layer: &Layer, seed: u64) -> Result<Weights> {
    let info = layer.query()?;
    let [experts, hidden, intermediate] =
        [info.experts, info.hidden, info.intermediate_count].map(|n| n as usize);
    let mut rng = Rng::new(seed);
    let mut weights = Weights::new(layer)?;
    for (name, rows, k) in [("w13", 2 * intermediate, hidden), ("w2", hidden, intermediate)] {
        let words = (0..experts * rows * k / 16).map(|_| rng.bits().to_le_bytes());
        let codes: Vec<u8> = words.flatten().collect();
        let scales: Vec<u8> =
            (0..experts * rows * k / 32).map(|_| 118 + rng.below(4) as u8).collect();
        weights.set(&format!("{name}_weight"), &Tensor::new(&codes, &[experts, rows, k / 2])?)?;
        let scales = Tensor::new(&scales, &[experts, rows, k / 32])?;
        weights.set(&format!("{name}_weight_scale"), &scales)?;
    }
    weights.prepare()?;
    Ok(weights)
}

/// |y - truth| / |truth|
pub fn relative_error(y: &[bf16], truth: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let pairs = y.iter().zip(truth);
    let difference: f64 = pairs.map(|(y, t)| square(f64::from(y.to_f32()) - f64::from(*t))).sum();
    let norm: f64 = truth.iter().map(|t| square(f64::from(*t))).sum();
    (difference / norm.max(f64::MIN_POSITIVE)).sqrt()
}

/// What a layer with bf16 output may differ from the truth.
pub const ERROR_LIMIT: f64 = 3e-3;
