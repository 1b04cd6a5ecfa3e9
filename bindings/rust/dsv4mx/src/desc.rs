//! The description of a layer.

use std::fmt;
use std::ptr;

use crate::enums::{Compute, Dtype, NibbleOrder, RouterWeightPosition, W13Order};
use crate::sys;

/// Activation between the two products, on the clamped gate g and up u.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// h = g * sigmoid(g) * u
    #[default]
    Swiglu,
    /// h = g * sigmoid(1.702 * g) * (u + 1): GPT-OSS.
    SwigluGptoss,
    /// h = g * sigmoid(alpha * g) * (u + beta)
    Gated {
        /// Factor inside the sigmoid.
        alpha: f32,
        /// Added to u.
        beta: f32,
    },
    /// h = beta * tanh(g / beta) * sigmoid(g) * linear_beta * tanh(u / linear_beta): Kimi K3. No clamp beside it.
    Situ {
        /// Bound of the gate.
        beta: f32,
        /// Bound of the up projection.
        linear_beta: f32,
    },
}

/// One MoE layer, or the part of it that one rank holds. The sizes are those of the whole layer; everything else has a
/// default, except that a fused w13 tensor needs [`LayerDesc::w13_order`].
///
/// Nothing is checked here: [`crate::Layer::new`] does.
#[derive(Clone)]
pub struct LayerDesc {
    // Its pointers are NULL but during a call.
    raw: sys::dsv4mx_layer_desc,
    placement: Vec<i32>,
    #[cfg(feature = "experimental")]
    experimental: sys::experimental::dsv4mx_layer_experimental,
}

// SAFETY: the raw struct holds numbers only, see above.
unsafe impl Send for LayerDesc {}
// SAFETY: as above.
unsafe impl Sync for LayerDesc {}

macro_rules! setters {
    ($( $(#[$doc:meta])* $field:ident: $type:ty, )*) => {
        $(
            $(#[$doc])*
            pub fn $field(mut self, $field: $type) -> Self {
                self.raw.$field = $field.into();
                self
            }
        )*
    };
}

impl LayerDesc {
    /// A layer of these sizes: hidden and intermediate are multiples of 32 up to 65536, experts goes up to 4096, top_k up
    /// to 16.
    pub fn new(hidden: i32, intermediate: i32, experts: i32, top_k: i32) -> Self {
        let mut raw = sys::dsv4mx_layer_desc::INIT;
        raw.hidden = hidden;
        raw.intermediate = intermediate;
        raw.experts = experts;
        raw.top_k = top_k;
        Self::from_raw(raw)
    }

    pub(crate) fn from_raw(raw: sys::dsv4mx_layer_desc) -> Self {
        Self {
            raw,
            placement: Vec::new(),
            #[cfg(feature = "experimental")]
            experimental: Default::default(),
        }
    }

    setters! {
        /// Ids per token, 1..16.
        top_k: i32,
        /// First expert held here.
        expert_first: i32,
        /// Experts held here.
        experts: i32,
        /// Experts of the whole layer; 0 = those held here.
        experts_global: i32,
        /// Tensor-parallel rank.
        tp_rank: i32,
        /// Tensor-parallel ranks; each rank's out is a partial sum.
        tp_size: i32,
        /// First channel held here; with `intermediate_count`.
        intermediate_first: i32,
        /// Channels held here; 0 = an even cut.
        intermediate_count: i32,
        /// Values of K per scale; 0 = 32.
        group_size: i32,
        /// Row order of fused w13 tensors.
        w13_order: W13Order,
        /// Which nibble is the even k; the low one by default.
        nibble_order: NibbleOrder,
        /// Gate and up are clamped to it; 0 = no clamp.
        clamp_limit: f32,
        /// A `[2 * intermediate]` bias per expert of this dtype (BF16 or F32) is required; none by default.
        w13_bias: Dtype,
        /// A `[hidden]` bias per expert of this dtype (BF16 or F32) is required; none by default.
        w2_bias: Dtype,
        /// Where the router weight multiplies.
        router_weight_position: RouterWeightPosition,
        /// Applied once, in the combine; 0 = 1.0.
        routed_scaling_factor: f32,
        /// Type of x: BF16.
        x_dtype: Dtype,
        /// Type of out: BF16 (default) or F32.
        out_dtype: Dtype,
        /// Type of expert ids: I32 (default) or I64.
        ids_dtype: Dtype,
        /// Type of router weights: F32 (default) or BF16.
        router_weight_dtype: Dtype,
        /// Type between the second product and the combine: F32 (default) or BF16.
        slot_dtype: Dtype,
        /// What is computed with.
        compute: Compute,
    }

    /// The activation; [`Activation::Swiglu`] by default.
    pub fn activation(mut self, activation: Activation) -> Self {
        let raw = &mut self.raw;
        let (kind, alpha, beta, situ_beta, situ_linear_beta) = match activation {
            Activation::Swiglu => (sys::DSV4MX_ACTIVATION_SWIGLU, 0.0, 0.0, 0.0, 0.0),
            Activation::SwigluGptoss => (sys::DSV4MX_ACTIVATION_SWIGLU_GPTOSS, 0.0, 0.0, 0.0, 0.0),
            Activation::Gated { alpha, beta } => {
                (sys::DSV4MX_ACTIVATION_GATED, alpha, beta, 0.0, 0.0)
            }
            Activation::Situ { beta, linear_beta } => {
                (sys::DSV4MX_ACTIVATION_SITU, 0.0, 0.0, beta, linear_beta)
            }
        };
        raw.activation = kind;
        raw.activation_alpha = alpha;
        raw.activation_beta = beta;
        raw.situ_beta = situ_beta;
        raw.situ_linear_beta = situ_linear_beta;
        self
    }

    /// Local expert s holds expert `placement[s]` of the layer; an expert may stand at several places. Sets `experts` to
    /// their number.
    pub fn placement(mut self, placement: impl Into<Vec<i32>>) -> Self {
        self.placement = placement.into();
        self.raw.experts = i32::try_from(self.placement.len()).unwrap_or(i32::MAX);
        self
    }

    /// Ids are physical: id p is local expert p - `first`, of `global` on all ranks. Needs a placement.
    pub fn physical_ids(mut self, first: i32, global: i32) -> Self {
        self.raw.physical_first = first;
        self.raw.physical_global = global;
        self.flag(sys::DSV4MX_LAYER_PHYSICAL_IDS, true)
    }

    /// A token's output is bit-identical alone, in any batch, at any position.
    pub fn batch_invariant(self, on: bool) -> Self {
        self.flag(sys::DSV4MX_LAYER_BATCH_INVARIANT, on)
    }

    /// Ids outside -1..experts_global-1 are reported instead of skipped.
    pub fn checked_ids(self, on: bool) -> Self {
        self.flag(sys::DSV4MX_LAYER_CHECKED_IDS, on)
    }

    /// CPU: computes with a reference in fp64 instead. Experimental.
    #[cfg(feature = "experimental")]
    pub fn oracle(mut self, oracle: crate::experimental::Oracle) -> Self {
        self.experimental.oracle = oracle.into();
        self
    }

    /// CUDA: forces a number path. Experimental.
    #[cfg(feature = "experimental")]
    pub fn number_path(mut self, path: crate::experimental::NumberPath) -> Self {
        self.experimental.number_path = path.into();
        self
    }

    fn flag(mut self, flag: i32, on: bool) -> Self {
        let flag = flag as u32;
        self.raw.flags = if on { self.raw.flags | flag } else { self.raw.flags & !flag };
        self
    }

    /// The C struct, for fields that this type has no method for.
    ///
    /// # Safety
    /// Pointers stay NULL.
    pub unsafe fn raw_mut(&mut self) -> &mut sys::dsv4mx_layer_desc {
        &mut self.raw
    }

    /// Calls with the struct as C takes it.
    pub(crate) fn with_raw<R>(&self, call: impl FnOnce(&sys::dsv4mx_layer_desc) -> R) -> R {
        let mut raw = self.raw;
        raw.placement =
            if self.placement.is_empty() { ptr::null() } else { self.placement.as_ptr() };
        #[cfg(feature = "experimental")]
        if (self.experimental.oracle, self.experimental.number_path) != (0, 0) {
            raw.experimental = &self.experimental;
        }
        call(&raw)
    }

    pub(crate) fn numbers(&self) -> &sys::dsv4mx_layer_desc {
        &self.raw
    }
}

impl fmt::Debug for LayerDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}
