//! What the header keeps behind `DSV4MX_EXPERIMENTAL`: details of today, outside every promise of compatibility.

use crate::enums::Status;
use crate::error::{Error, Result};
use crate::sys::experimental as raw;
use crate::weights::Weights;

/// References of the CPU backend in fp64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oracle {
    /// No reference: the layer as it is.
    #[default]
    None,
    /// No rounding but the inputs' and the output's.
    Truth,
    /// What the layer promises: h rounded once, out rounded once.
    Spec,
}

impl From<Oracle> for i32 {
    fn from(oracle: Oracle) -> i32 {
        match oracle {
            Oracle::None => raw::DSV4MX_ORACLE_NONE,
            Oracle::Truth => raw::DSV4MX_ORACLE_TRUTH,
            Oracle::Spec => raw::DSV4MX_ORACLE_SPEC,
        }
    }
}

/// Number path of the CUDA backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NumberPath {
    /// The plan decides.
    #[default]
    Auto,
    /// Weights converted to bf16.
    Bf16,
    /// Activations split into two exact E4M3 planes.
    Planes,
}

impl From<NumberPath> for i32 {
    fn from(path: NumberPath) -> i32 {
        match path {
            NumberPath::Auto => raw::DSV4MX_NUMBER_PATH_AUTO,
            NumberPath::Bf16 => raw::DSV4MX_NUMBER_PATH_BF16,
            NumberPath::Planes => raw::DSV4MX_NUMBER_PATH_PLANES,
        }
    }
}

/// Census of prepared weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsCensus {
    /// Whether the two-plane path is exact for every block.
    pub planes_exact: bool,
    /// Most binades between scales inside one row's block of 512 of K.
    pub span_max: i32,
}

impl Weights {
    /// Census of scales. Experimental.
    ///
    /// # Errors
    /// [`Status::InvalidState`] (not prepared), [`Status::Unsupported`] (a library without it)
    pub fn query_census(&self) -> Result<WeightsCensus> {
        const OPERATION: &str = "weights_query_census";
        let context = self.context();
        let Some(function) = context.api().dsv4mx_weights_query_census() else {
            let text = "this library does not have the experimental function";
            return Err(Error::new(Status::Unsupported, OPERATION, text));
        };
        let mut census = raw::dsv4mx_weights_census::INIT;
        // SAFETY: live weights, and a struct with its size.
        let status = unsafe { function(self.raw(), &mut census) };
        context.check(OPERATION, status)?;
        Ok(WeightsCensus { planes_exact: census.planes_exact != 0, span_max: census.span_max })
    }
}
