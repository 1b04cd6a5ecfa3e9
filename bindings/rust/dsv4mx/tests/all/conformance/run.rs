//! The steps of a case, through the safe crate; its raw structs take what a case may say and Rust would not.

use std::path::Path;
use std::ptr;
use std::{fmt, fs};

use dsv4mx::{
    Activation, Buffer, Checkpoint, Context, Control, CpuIsa, Device, DeviceBatch, Dtype, Error,
    Layer, LayerDesc, Memory, NibbleOrder, RouterWeightPosition, Status, Stream, Tensor, W13Order,
    Weights, Workspace, bf16, sys,
};
use serde_json::Value;

use super::data::Data;

/// What a run gave: the computed rows as bytes and as numbers, and the counts.
#[derive(Default)]
pub struct Outcome {
    pub hidden: usize,
    pub rows: Vec<u8>,
    pub values: Vec<f32>,
    pub counts: Vec<i64>,
}

/// The step that failed.
pub struct Refused {
    pub operation: &'static str,
    pub status: Status,
    pub text: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.operation, self.status, self.text)
    }
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        let (operation, status) = (error.operation(), error.status());
        Self { operation, status, text: error.text().to_owned() }
    }
}

fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A number, or the code that has the name.
fn code<T: From<i32>>(value: &Value, name: fn(T) -> &'static str) -> i32 {
    match value.as_str() {
        None => int(value) as i32,
        Some(text) => (-1..200)
            .find(|&code| name(T::from(code)) == text)
            .unwrap_or_else(|| panic!("no code {text}")),
    }
}

fn dtype(value: &Value) -> i32 {
    code(value, Dtype::name)
}

fn float(value: &Value) -> f32 {
    match value.as_str() {
        Some(text) => text.parse().unwrap(),
        None => value.as_f64().unwrap_or(0.0) as f32,
    }
}

/// By the methods of the descriptor, so that each is seen to set its field; raw where they have no way to say it.
fn layer_desc(fields: &Value) -> LayerDesc {
    let mut desc = LayerDesc::new(0, 0, 0, 0);
    // SAFETY: no pointer is touched, here and below.
    let raw = unsafe { desc.raw_mut() };
    raw.hidden = int(&fields["hidden"]) as i32;
    raw.intermediate = int(&fields["intermediate"]) as i32;
    for (name, value) in fields.as_object().unwrap() {
        let number = int(value) as i32;
        desc = match name.as_str() {
            "hidden" | "intermediate" => desc,
            "experts" => desc.experts(number),
            "top_k" => desc.top_k(number),
            "expert_first" => desc.expert_first(number),
            "experts_global" => desc.experts_global(number),
            "placement" => {
                let experts = value.as_array().unwrap().iter().map(|v| int(v) as i32);
                desc.placement(experts.collect::<Vec<i32>>())
            }
            "tp_rank" => desc.tp_rank(number),
            "tp_size" => desc.tp_size(number),
            "intermediate_first" => desc.intermediate_first(number),
            "intermediate_count" => desc.intermediate_count(number),
            "group_size" => desc.group_size(number),
            "w13_order" => desc.w13_order(code(value, W13Order::name).into()),
            "nibble_order" => desc.nibble_order(code(value, NibbleOrder::name).into()),
            "clamp_limit" => desc.clamp_limit(float(value)),
            "w13_bias" => desc.w13_bias(dtype(value).into()),
            "w2_bias" => desc.w2_bias(dtype(value).into()),
            "router_weight_position" => {
                desc.router_weight_position(code(value, RouterWeightPosition::name).into())
            }
            "routed_scaling_factor" => desc.routed_scaling_factor(float(value)),
            "x_dtype" => desc.x_dtype(dtype(value).into()),
            "out_dtype" => desc.out_dtype(dtype(value).into()),
            "ids_dtype" => desc.ids_dtype(dtype(value).into()),
            "router_weight_dtype" => desc.router_weight_dtype(dtype(value).into()),
            "slot_dtype" => desc.slot_dtype(dtype(value).into()),
            "compute" => desc.compute(code(value, dsv4mx::Compute::name).into()),
            "activation" => activation(desc, value, fields),
            "activation_alpha" | "activation_beta" | "situ_beta" | "situ_linear_beta" => desc,
            "flags" => value.as_array().unwrap().iter().fold(desc, |desc, flag| {
                match flag.as_str().unwrap() {
                    "BATCH_INVARIANT" => desc.batch_invariant(true),
                    "CHECKED_IDS" => desc.checked_ids(true),
                    "PHYSICAL_IDS" => desc.physical_ids(
                        int(&fields["physical_first"]) as i32,
                        int(&fields["physical_global"]) as i32,
                    ),
                    other => panic!("no flag {other}"),
                }
            }),
            "physical_first" | "physical_global" => desc,
            "struct_size" => {
                // SAFETY: as above.
                unsafe { desc.raw_mut() }.struct_size = number as usize;
                desc
            }
            "reserved" => {
                // SAFETY: as above.
                unsafe { desc.raw_mut() }.reserved = number as u32;
                desc
            }
            other => panic!("the layer has no field {other}"),
        };
    }
    desc
}

fn activation(mut desc: LayerDesc, value: &Value, fields: &Value) -> LayerDesc {
    let field = |name: &str| float(&fields[name]);
    let (alpha, beta) = (field("activation_alpha"), field("activation_beta"));
    match value.as_str() {
        Some("SWIGLU") if (alpha, beta) == (0.0, 0.0) => desc.activation(Activation::Swiglu),
        Some("SWIGLU_GPTOSS") if (alpha, beta) == (0.0, 0.0) => {
            desc.activation(Activation::SwigluGptoss)
        }
        Some("GATED") => desc.activation(Activation::Gated { alpha, beta }),
        Some("SITU") => desc.activation(Activation::Situ {
            beta: field("situ_beta"),
            linear_beta: field("situ_linear_beta"),
        }),
        kind => {
            // SAFETY: no pointer is touched.
            let raw = unsafe { desc.raw_mut() };
            raw.activation_alpha = alpha;
            raw.activation_beta = beta;
            raw.activation = match kind {
                Some("SWIGLU") => sys::DSV4MX_ACTIVATION_SWIGLU,
                Some("SWIGLU_GPTOSS") => sys::DSV4MX_ACTIVATION_SWIGLU_GPTOSS,
                Some(other) => panic!("no activation {other}"),
                None => int(value) as i32,
            };
            desc
        }
    }
}

fn create_context(fields: &Value) -> Result<(), Refused> {
    if fields["struct_size"].is_number() {
        // Rust cannot say this; the raw layer can.
        let api = sys::api().unwrap();
        let desc = sys::dsv4mx_context_desc {
            struct_size: int(&fields["struct_size"]) as usize,
            ..Default::default()
        };
        let mut context = ptr::null_mut();
        // SAFETY: a descriptor, and a place for the result.
        let status = unsafe { api.dsv4mx_context_create(&desc, &mut context) };
        assert!(context.is_null());
        return Err(Refused {
            operation: "context_create",
            status: status.into(),
            text: "".into(),
        });
    }
    let mut builder = Context::builder();
    for (name, value) in fields.as_object().unwrap() {
        builder = match name.as_str() {
            "device" => builder.device(code(value, Device::name).into()),
            "threads" => builder.threads(int(value) as i32),
            "cpu_isa" => builder.cpu_isa(code(value, CpuIsa::name).into()),
            other => panic!("the context has no field {other}"),
        };
    }
    builder.build()?;
    Ok(())
}

fn checkpoint(step: &Value, name: &str) -> Result<(), Error> {
    let file: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("{file}-{:?}.safetensors", std::thread::current().id()));
    let _ = fs::remove_file(&path);
    if let Some(hexadecimal) = step["bytes"].as_str() {
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        fs::write(&path, hexadecimal.as_bytes().chunks(2).map(byte).collect::<Vec<u8>>()).unwrap();
    }
    Checkpoint::open(&path).map(drop)
}

pub fn run(case: &Value, context: &Context) -> Result<Outcome, Refused> {
    let steps = case["steps"].as_array().unwrap();
    let tokens = steps.iter().map(|step| int(&step["tokens"])).max().unwrap_or(0).max(0);
    let data = case["data"].is_object().then(|| Data::new(case, tokens.min(1024) as usize));
    let mut outcome = Outcome::default();
    let (mut layer, mut weights): (Option<Layer>, Option<Weights>) = (None, None);
    for step in steps {
        match step["do"].as_str().unwrap() {
            "context_create" => create_context(&step["fields"])?,
            "checkpoint_create" => checkpoint(step, case["name"].as_str().unwrap())?,
            "layer_create" => layer = Some(Layer::new(context, &layer_desc(&case["layer"]))?),
            "weights_create" => weights = Some(Weights::new(layer.as_ref().unwrap())?),
            "weights_set" => set(weights.as_mut().unwrap(), step, data.as_ref().unwrap())?,
            "weights_prepare" => weights.as_mut().unwrap().prepare()?,
            "weights_reset" => weights.as_mut().unwrap().reset()?,
            "layer_set_placement" => {
                let placement = step["placement"].as_array().unwrap();
                let placement: Vec<i32> = placement.iter().map(|e| int(e) as i32).collect();
                layer.as_mut().unwrap().set_placement(&placement, Stream::DEFAULT)?;
            }
            "layer_apply" => {
                let (layer, weights) = (layer.as_ref().unwrap(), weights.as_ref().unwrap());
                outcome = apply(layer, weights, case, step, data.as_ref().unwrap())?;
            }
            other => panic!("no step {other}"),
        }
    }
    Ok(outcome)
}

fn set(weights: &mut Weights, step: &Value, data: &Data) -> Result<(), Error> {
    let slot = step["slot"].as_u64().map(|slot| slot as usize);
    let dtype = step["dtype"].as_str().unwrap();
    let bytes = data.source(step["source"].as_str().unwrap(), dtype, slot);
    let shape: Vec<usize> =
        step["shape"].as_array().unwrap().iter().map(|n| int(n) as usize).collect();
    let dtype = Dtype::from(code(&step["dtype"], Dtype::name));
    let expert = step["expert"].as_u64().map(|expert| expert as usize);
    let name = step["name"].as_str().unwrap();
    let device = step["memory"] == "DEVICE";
    let buffer = if device { Some(Buffer::from_slice(weights.context(), &bytes)?) } else { None };
    let (memory, at) = match &buffer {
        Some(buffer) => (Memory::Device, buffer.as_ptr()),
        None => (Memory::Host, bytes.as_ptr().cast()),
    };
    // SAFETY: the bytes of the shape, or a shape that is refused before they are read.
    let tensor = unsafe { Tensor::from_raw(at, dtype, memory, &shape, &[])? };
    weights.set_with(name, expert, &tensor, &mut Control::new())?;
    if device {
        weights.context().synchronize(Stream::DEFAULT)?;
    }
    Ok(())
}

/// Rows with gaps, as bytes.
fn spread<const N: usize>(rows: &[[u8; N]], width: usize, stride: usize, gap: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for row in rows.chunks(width.max(1)) {
        bytes.extend(row.concat());
        bytes.resize(bytes.len() + N * (stride.max(width) - width), gap);
    }
    bytes
}

fn apply(
    layer: &Layer,
    weights: &Weights,
    case: &Value,
    step: &Value,
    data: &Data,
) -> Result<Outcome, Error> {
    let fields = &case["layer"];
    let context = layer.context();
    let (hidden, top_k) = (int(&fields["hidden"]) as usize, int(&fields["top_k"]) as usize);
    let tokens = int(&step["tokens"]);
    let f32_out = fields["out_dtype"] == "F32";
    let stride = |name: &str| int(&step[name]).max(0) as usize;
    let wide = |bits: &u16| (u32::from(*bits) << 16).to_le_bytes();

    let x: Vec<[u8; 2]> = data.x.iter().map(|b| b.to_le_bytes()).collect();
    let x = Buffer::from_slice(context, &spread(&x, hidden, stride("x_stride"), 0xFF))?;
    let ids_stride = stride("topk_ids_stride");
    let ids = if fields["ids_dtype"] == "I64" {
        let ids: Vec<[u8; 8]> = data.ids.iter().map(|id| id.to_le_bytes()).collect();
        spread(&ids, top_k, ids_stride, 0)
    } else {
        let ids: Vec<[u8; 4]> = data.ids.iter().map(|&id| (id as i32).to_le_bytes()).collect();
        spread(&ids, top_k, ids_stride, 0)
    };
    let ids = Buffer::from_slice(context, &ids)?;
    let router_stride = stride("topk_weights_stride");
    let router = if fields["router_weight_dtype"] == "BF16" {
        let router: Vec<[u8; 2]> = data.router.iter().map(|b| b.to_le_bytes()).collect();
        spread(&router, top_k, router_stride, 0)
    } else {
        spread(&data.router.iter().map(wide).collect::<Vec<_>>(), top_k, router_stride, 0)
    };
    let router = Buffer::from_slice(context, &router)?;
    let mut begin = if f32_out {
        spread(&data.out.iter().map(wide).collect::<Vec<_>>(), hidden, stride("out_stride"), 0x5A)
    } else {
        let out: Vec<[u8; 2]> = data.out.iter().map(|b| b.to_le_bytes()).collect();
        spread(&out, hidden, stride("out_stride"), 0x5A)
    };
    let accumulate = step["accumulate"] == true;
    if !accumulate {
        begin.fill(0x5A);
    }
    let mut out = Buffer::from_slice(context, &begin)?;

    let mut bytes = 0;
    if (0..=131_072).contains(&tokens) {
        let need = layer.query_workspace(tokens as usize)?;
        bytes = if step["workspace"].is_string() { need.minimum_bytes } else { need.bytes };
    }
    let mut workspace = Workspace::new(context, bytes)?;
    let short = usize::from(step["workspace"] == "short");
    let mut batch =
        DeviceBatch::new(0, x.as_ptr(), ids.as_ptr(), router.as_ptr(), out.as_mut_ptr())
            .workspace(workspace.as_mut_ptr(), bytes - short)
            .x_stride(int(&step["x_stride"]))
            .topk_ids_stride(int(&step["topk_ids_stride"]))
            .topk_weights_stride(int(&step["topk_weights_stride"]))
            .out_stride(int(&step["out_stride"]))
            .multiprocessors(int(&step["multiprocessors"]) as i32);
    if accumulate {
        batch = batch.accumulate();
    }
    let limit = step["tokens_device"].as_i64();
    let limit_buffer = Buffer::from_slice(context, &[limit.unwrap_or(0) as i32])?;
    if limit.is_some() {
        batch = batch.tokens_device(limit_buffer.as_ptr().cast());
    }
    let experts = int(&fields["experts"]) as usize;
    let mut counts_buffer = Buffer::zeroed(context, 8 * experts)?;
    let counted = step["counts"] == true;
    if counted {
        batch = batch.expert_counts(counts_buffer.as_mut_ptr().cast());
    }
    let raw = batch.raw_mut();
    raw.tokens = tokens;
    raw.flags |= int(&step["flags"]) as u32;
    if step["struct_size"].is_number() {
        raw.struct_size = int(&step["struct_size"]) as usize;
    }
    for name in step["null"].as_array().into_iter().flatten() {
        match name.as_str().unwrap() {
            "x" => raw.x = ptr::null(),
            "topk_ids" => raw.topk_ids = ptr::null(),
            "topk_weights" => raw.topk_weights = ptr::null(),
            "out" => raw.out = ptr::null_mut(),
            "workspace" => raw.workspace = ptr::null_mut(),
            other => panic!("no pointer {other}"),
        }
    }
    for (name, offset) in step["offset"].as_object().into_iter().flatten() {
        let offset = int(offset) as usize;
        match name.as_str() {
            "x" => raw.x = raw.x.wrapping_byte_add(offset),
            "x_scale" => raw.x_scale = raw.x_scale.wrapping_byte_add(offset),
            "topk_ids" => raw.topk_ids = raw.topk_ids.wrapping_byte_add(offset),
            "topk_weights" => raw.topk_weights = raw.topk_weights.wrapping_byte_add(offset),
            "out" => raw.out = raw.out.wrapping_byte_add(offset),
            other => panic!("no pointer {other}"),
        }
    }
    // SAFETY: buffers of the layer's types and sizes that outlive the wait, or arguments that are refused.
    unsafe { layer.apply_device(weights, &batch, Stream::DEFAULT)? };
    context.synchronize(Stream::DEFAULT)?;

    let mut end = vec![0u8; begin.len()];
    out.copy_to(&mut end)?;
    let size = if f32_out { 4 } else { 2 };
    let row = size * stride("out_stride").max(hidden);
    let rows = data.out.len() / hidden;
    let computed = limit.unwrap_or(rows as i64).clamp(0, rows as i64) as usize;
    let mut outcome = Outcome { hidden, ..Default::default() };
    for (index, (new, old)) in end.chunks(row).zip(begin.chunks(row)).enumerate() {
        let kept = if index < computed { size * hidden } else { 0 };
        assert_eq!(new[kept..], old[kept..], "apply wrote outside its rows");
        outcome.rows.extend(&new[..kept]);
    }
    outcome.values = if f32_out {
        outcome.rows.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    } else {
        outcome.rows.chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    };
    if counted {
        outcome.counts = vec![0; experts];
        counts_buffer.copy_to(&mut outcome.counts)?;
    }
    Ok(outcome)
}
