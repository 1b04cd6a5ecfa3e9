//! The tensors of a case.

use serde_json::Value;

/// splitmix64's last step (Vigna).
fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

struct Stream(u64);

impl Stream {
    fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed << 8 | stream))
    }

    fn word(&self, i: usize) -> u64 {
        mix((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(self.0))
    }

    fn bytes(&self, count: usize) -> Vec<u8> {
        let words = (0..count.div_ceil(8)).flat_map(|i| self.word(i).to_le_bytes());
        words.take(count).collect()
    }

    fn bf16(&self, count: usize, exponent: u64) -> Vec<u16> {
        let number = |w: u64| (w & 1) << 15 | (exponent + (w >> 1 & 3)) << 7 | (w >> 3 & 127);
        (0..count).map(|i| number(self.word(i)) as u16).collect()
    }
}

/// One matrix of all local experts: `bytes` of each row of codes and of scales, and one bias a row.
struct Matrix {
    rows: usize,
    codes: Vec<u8>,
    scales: Vec<u8>,
    bias: Vec<u16>,
}

pub struct Data {
    experts: usize,
    gate: Matrix,
    up: Matrix,
    down: Matrix,
    order: String,
    high_first: bool,
    /// bf16 bits
    pub x: Vec<u16>,
    pub ids: Vec<i64>,
    /// bf16 bits
    pub router: Vec<u16>,
    /// bf16 bits
    pub out: Vec<u16>,
}

fn size(value: &Value) -> usize {
    value.as_u64().unwrap_or(0) as usize
}

impl Data {
    pub fn new(case: &Value, tokens: usize) -> Self {
        let (layer, data) = (&case["layer"], &case["data"]);
        let [hidden, experts, top_k] = ["hidden", "experts", "top_k"].map(|key| size(&layer[key]));
        let intermediate = match size(&layer["intermediate_count"]) {
            0 => size(&layer["intermediate"]) / size(&layer["tp_size"]).max(1),
            count => count,
        };
        let seed = data["seed"].as_u64().unwrap();
        let stream = |number: u64| Stream::new(seed, number);
        let (low, count) = (size(&data["scale_low"]), size(&data["scale_count"]));
        let matrix = |number: u64, rows: usize, k: usize| Matrix {
            rows,
            codes: stream(1 + number).bytes(experts * rows * k / 2),
            scales: stream(4 + number)
                .bytes(experts * rows * k / 32)
                .iter()
                .map(|&byte| (low + usize::from(byte) % count) as u8)
                .collect(),
            bias: stream(7 + number).bf16(experts * rows, 122),
        };
        let gate = matrix(0, intermediate, hidden);
        let up = matrix(1, intermediate, hidden);
        let down = matrix(2, hidden, intermediate);

        let x = if data["x"] == "one_hot" {
            let mut x = vec![0; tokens * hidden];
            for (token, row) in x.chunks_mut(hidden).enumerate() {
                row[stream(10).word(token) as usize % hidden] = 0x3F80;
            }
            x
        } else {
            stream(10).bf16(tokens * hidden, 124)
        };
        let (first, end) = (data["ids_low"].as_i64().unwrap(), data["ids_high"].as_i64().unwrap());
        let wide = data["ids_wide"] == true;
        let ids = (0..tokens * top_k).map(|i| {
            let word = stream(11).word(i);
            let id = first + (word % (end - first) as u64) as i64;
            if wide && word >> 60 == 0 { id + (1 << 32) } else { id }
        });
        let router = (0..tokens * top_k).map(|i| 0x3F00 | (stream(12).word(i) & 127) as u16);
        let mut all = Self {
            experts,
            gate,
            up,
            down,
            order: layer["w13_order"].as_str().unwrap_or("UNSET").to_owned(),
            high_first: layer["nibble_order"] == "HIGH_FIRST",
            x,
            ids: ids.collect(),
            router: router.collect(),
            out: stream(13).bf16(tokens * hidden, 124),
        };
        for poke in data["poke"].as_array().into_iter().flatten() {
            let (index, value) = (size(&poke[1]), size(&poke[2]) as u8);
            let (matrix, part) = poke[0].as_str().unwrap().split_once('_').unwrap();
            let matrix = match matrix {
                "gate" => &mut all.gate,
                "up" => &mut all.up,
                _ => &mut all.down,
            };
            let bytes = if part == "codes" { &mut matrix.codes } else { &mut matrix.scales };
            bytes[index] = value;
        }
        all
    }

    /// A tensor's bytes as a step wants them: `w13`, `w2_scale` and so on, of one slot or of all.
    pub fn source(&self, name: &str, dtype: &str, slot: Option<usize>) -> Vec<u8> {
        let (matrix, part) = name.split_once('_').unwrap_or((name, "codes"));
        let slots = slot.map_or(0..self.experts, |slot| slot..slot + 1);
        let mut bytes = Vec::new();
        for slot in slots {
            let rows_of = |matrix: &Matrix| rows(matrix, part, dtype, slot);
            match (matrix, self.order.as_str()) {
                ("w1", _) => bytes.extend(rows_of(&self.gate).concat()),
                ("w3", _) => bytes.extend(rows_of(&self.up).concat()),
                ("w2", _) => bytes.extend(rows_of(&self.down).concat()),
                (_, "INTERLEAVED") => {
                    for (gate, up) in rows_of(&self.gate).iter().zip(rows_of(&self.up)) {
                        bytes.extend(gate);
                        bytes.extend(up);
                    }
                }
                (_, "UP_GATE") => {
                    bytes.extend(rows_of(&self.up).concat());
                    bytes.extend(rows_of(&self.gate).concat());
                }
                _ => {
                    bytes.extend(rows_of(&self.gate).concat());
                    bytes.extend(rows_of(&self.up).concat());
                }
            }
        }
        if part == "codes" && self.high_first {
            bytes.iter_mut().for_each(|byte| *byte = byte.rotate_left(4));
        }
        bytes
    }
}

/// The rows of one slot as bytes of a dtype.
fn rows(matrix: &Matrix, part: &str, dtype: &str, slot: usize) -> Vec<Vec<u8>> {
    let wide = |bits: u32| bits.to_le_bytes().to_vec();
    let narrow = |bits: u16| bits.to_le_bytes().to_vec();
    let slice = |all: &[u8]| {
        let row = all.len() / matrix.bias.len();
        all.chunks(row).skip(slot * matrix.rows).take(matrix.rows).map(<[u8]>::to_vec).collect()
    };
    match (part, dtype) {
        ("codes", _) => slice(&matrix.codes),
        ("scale", "F32") => {
            let rows: Vec<Vec<u8>> = slice(&matrix.scales);
            rows.iter()
                .map(|r| r.iter().flat_map(|&b| wide(u32::from(b) << 23)).collect())
                .collect()
        }
        ("scale", "BF16") => {
            let rows: Vec<Vec<u8>> = slice(&matrix.scales);
            rows.iter()
                .map(|r| r.iter().flat_map(|&b| narrow(u16::from(b) << 7)).collect())
                .collect()
        }
        ("scale", _) => slice(&matrix.scales),
        (_, dtype) => matrix
            .bias
            .iter()
            .skip(slot * matrix.rows)
            .take(matrix.rows)
            .map(|&b| if dtype == "F32" { wide(u32::from(b) << 16) } else { narrow(b) })
            .collect(),
    }
}
