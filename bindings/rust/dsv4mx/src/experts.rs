//! Single experts of prepared weights: copied, replaced, read back, moved as bytes.

use crate::control::Control;
use crate::elements::Element;
use crate::enums::{Device, Dtype, Status};
use crate::error::{Error, Result};
use crate::slab::Slab;
use crate::weights::Weights;
use crate::{sys, text};

const COPY: &str = "weights_copy_experts";
const GET: &str = "weights_get";

/// What prepare found in one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertInfo {
    /// Smallest scale byte of groups that are not all zero; 0 if there are none.
    pub scale_min: i32,
    /// Largest such byte; 0 if there are none.
    pub scale_max: i32,
}

fn number(expert: usize) -> i32 {
    i32::try_from(expert).unwrap_or(i32::MAX)
}

impl Weights {
    /// Describes local expert `expert`.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::InvalidState`] (not prepared)
    pub fn query_expert(&self, expert: usize) -> Result<ExpertInfo> {
        let mut info = sys::dsv4mx_expert_info::INIT;
        // SAFETY: live weights, and a struct with its size.
        let status = unsafe {
            let api = self.context().api();
            api.dsv4mx_weights_query_expert(self.raw(), number(expert), &mut info)
        };
        self.context().check("weights_query_expert", status)?;
        Ok(ExpertInfo { scale_min: info.scale_min, scale_max: info.scale_max })
    }

    /// Local expert `to_experts[i]` becomes prepared expert `from_experts[i]` of `from`, which may have another number of
    /// experts and another context of the same kind of device. These weights may be prepared, and then stay so; else the
    /// experts count as set. On CUDA it waits for applies of the feature `cudarc` and for the copies.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::InvalidState`] (`from` is not prepared), [`Status::Unsupported`] (another form,
    /// or an expert that the number path of these weights does not allow), [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn copy_experts(
        &mut self,
        from: &Self,
        to_experts: &[usize],
        from_experts: &[usize],
    ) -> Result<()> {
        self.copy_experts_with(from, to_experts, from_experts, &mut Control::new())
    }

    /// As [`Weights::copy_experts`], under control.
    ///
    /// # Errors
    /// As [`Weights::copy_experts`], [`Status::Cancelled`], [`Status::DeadlineExceeded`]: the text says how many experts
    /// are copied.
    pub fn copy_experts_with(
        &mut self,
        from: &Self,
        to_experts: &[usize],
        from_experts: &[usize],
        control: &mut Control<'_>,
    ) -> Result<()> {
        self.settle();
        // SAFETY: waited for before either object can be used again.
        let copied = unsafe { self.enqueue_copy_experts(from, to_experts, from_experts, control) };
        let waited = self.wait_for(control);
        copied.and(waited)
    }

    /// As [`Weights::copy_experts_with`], but only enqueues: applies enqueued before on the stream see the old experts,
    /// those after it the new ones.
    ///
    /// # Errors
    /// As [`Weights::copy_experts_with`], [`Status::InvalidState`] (the stream is being captured)
    ///
    /// # Safety
    /// Until the stream has passed the copies both objects live, `from` does not change, and uses of either on other
    /// streams are ordered by the caller's events.
    pub unsafe fn enqueue_copy_experts(
        &mut self,
        from: &Self,
        to_experts: &[usize],
        from_experts: &[usize],
        control: &mut Control<'_>,
    ) -> Result<()> {
        if to_experts.len() != from_experts.len() {
            let text = format!(
                "to_experts has {} entries and from_experts {}, expected the same number",
                to_experts.len(),
                from_experts.len()
            );
            return Err(Error::new(Status::InvalidArgument, COPY, text));
        }
        let numbers = |list: &[usize]| list.iter().map(|&e| number(e)).collect::<Vec<i32>>();
        let (to_experts, from_experts) = (numbers(to_experts), numbers(from_experts));
        let api = self.context().api();
        let to = self.raw_mut();
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_copy_args {
                control,
                to_experts: to_experts.as_ptr(),
                from_experts: from_experts.as_ptr(),
                count: number(to_experts.len()),
                ..Default::default()
            };
            // SAFETY: two live objects, of which nobody else uses the one that is written; the lists live for the call.
            unsafe { api.dsv4mx_weights_copy_experts(to, from.raw(), &args, stream) }
        });
        self.context().check(COPY, status)
    }

    /// [`Weights::copy_experts`] for one. For new weights of one expert, `from` is set and prepared for a layer of one
    /// expert that is else the same.
    ///
    /// # Errors
    /// As [`Weights::copy_experts`].
    pub fn replace(&mut self, expert: usize, from: &Self, from_expert: usize) -> Result<()> {
        self.copy_experts(from, &[expert], &[from_expert])
    }

    /// One tensor of a prepared expert, bit for bit what was set, in the names of [`Weights::set`], those of w1, w2, w3 and
    /// of gate_proj, up_proj, down_proj, e.g. `w1.weight`. `expert` is `None` or its number in the layer where the name has
    /// `experts.M.`
    ///
    /// As `u8` or `i8` come codes `[rows, K / 2]` and, as `u8`, scales `[rows, K / 32]`; as `f32` biases `[rows]`; as `bf16`
    /// the weights themselves `[rows, K]`. Rows are the channels held here, of w2 the hidden size; K is the other one.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::InvalidState`] (not prepared), [`Status::InvalidTensor`] (another type),
    /// [`Status::NotFound`] (no such name, a bias or an expert that is not held here), [`Status::OutOfMemory`],
    /// [`Status::CudaError`]
    pub fn get<T: Element>(&self, name: &str, expert: Option<usize>) -> Result<Vec<T>> {
        let (rows, columns) = self.form::<T>(name);
        let mut to = Vec::with_capacity(rows * columns);
        // SAFETY: room for that many elements, all of which are written where the call succeeds.
        unsafe {
            self.get_raw::<T>(name, expert, to.as_mut_ptr(), &mut Control::new())?;
            to.set_len(rows * columns);
        }
        Ok(to)
    }

    /// As [`Weights::get`], into a slice of exactly that many elements, under control.
    ///
    /// # Errors
    /// As [`Weights::get`], [`Status::InvalidTensor`] (the slice's length), [`Status::Cancelled`],
    /// [`Status::DeadlineExceeded`]
    pub fn get_with<T: Element>(
        &self,
        name: &str,
        expert: Option<usize>,
        to: &mut [T],
        control: &mut Control<'_>,
    ) -> Result<()> {
        let (rows, columns) = self.form::<T>(name);
        if to.len() != rows * columns {
            let text = format!(
                "the slice for {name} has {} elements, expected [{rows}, {columns}]",
                to.len()
            );
            return Err(Error::new(Status::InvalidTensor, GET, text));
        }
        // SAFETY: a slice of that many elements.
        unsafe { self.get_raw(name, expert, to.as_mut_ptr(), control) }
    }

    /// Rows and columns of what a name means; of what it does not mean the library tells.
    fn form<T: Element>(&self, name: &str) -> (usize, usize) {
        let [_, hidden, channels] = self.sizes;
        let (matrix, kind) = name.rsplit_once('.').unwrap_or(("", name));
        let matrix = matrix.rsplit_once('.').map_or(matrix, |(_, last)| last);
        let down = matches!(matrix, "w2" | "down_proj") || kind.starts_with("w2_");
        let (rows, k) = if down { (hidden, channels) } else { (channels, hidden) };
        if kind.ends_with("bias") {
            (rows, 1)
        } else if kind.contains("scale") {
            (rows, k / 32)
        } else if T::DTYPE == Dtype::Bf16 {
            (rows, k)
        } else {
            (rows, k / 2)
        }
    }

    /// # Safety
    /// `to` has room for the elements of `form`.
    unsafe fn get_raw<T: Element>(
        &self,
        name: &str,
        expert: Option<usize>,
        to: *mut T,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let (rows, columns) = self.form::<T>(name);
        let bias = name.ends_with("bias");
        let name = text::to_c(GET, "the name", name)?;
        let mut tensor = sys::dsv4mx_tensor {
            data: to.cast(),
            dtype: T::DTYPE.into(),
            rank: if bias { 1 } else { 2 },
            ..Default::default()
        };
        // Sizes of a created layer, which fit.
        tensor.shape = [rows as i64, if bias { 0 } else { columns as i64 }, 0, 0];
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_expert_args { control, ..Default::default() };
            let expert = expert.map_or(-1, number);
            // SAFETY: live weights; name, tensor and args live for the call; the memory is this function's contract.
            unsafe {
                let api = self.context().api();
                api.dsv4mx_weights_get(self.raw(), name.as_ptr(), expert, &tensor, &args, stream)
            }
        });
        self.context().check(GET, status)
    }

    /// Local expert `expert` as its bytes, in place. [`Slab::copy`] makes it owned.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::InvalidState`] (not prepared)
    pub fn get_slab(&self, expert: usize) -> Result<Slab<'_>> {
        let mut slab = sys::dsv4mx_slab::INIT;
        // SAFETY: live weights, and a struct with its size.
        let status = unsafe {
            let api = self.context().api();
            api.dsv4mx_weights_get_slab(self.raw(), number(expert), &mut slab)
        };
        self.context().check("weights_get_slab", status)?;
        // SAFETY: inside these weights, which are borrowed.
        Ok(unsafe { Slab::of_weights(&slab, self.context()) })
    }

    /// Takes local expert `expert` from its bytes, as [`Weights::copy_experts`] does from another object. After a failure
    /// prepared weights are as before, and in others the expert counts as not set.
    ///
    /// # Errors
    /// As [`Weights::copy_experts`], [`Status::Unsupported`] (an id of another form), [`Status::BufferTooSmall`] (too few
    /// bytes), [`Status::InvalidTensor`] (too many), [`Status::InvalidScale`]
    pub fn set_slab(&mut self, expert: usize, slab: &Slab<'_>) -> Result<()> {
        self.set_slab_with(expert, slab, &mut Control::new())
    }

    /// As [`Weights::set_slab`], under control.
    ///
    /// # Errors
    /// As [`Weights::set_slab`], [`Status::Cancelled`], [`Status::DeadlineExceeded`]
    pub fn set_slab_with(
        &mut self,
        expert: usize,
        slab: &Slab<'_>,
        control: &mut Control<'_>,
    ) -> Result<()> {
        const OPERATION: &str = "weights_set_slab";
        self.settle();
        let raw = slab.raw();
        let api = self.context().api();
        let weights = self.raw_mut();
        let status = control.run(|control, stream| {
            let args = sys::dsv4mx_expert_args { control, ..Default::default() };
            // SAFETY: weights that nobody else uses; `Slab` vouches for its memory, and the stream is waited for below.
            unsafe { api.dsv4mx_weights_set_slab(weights, number(expert), &raw, &args, stream) }
        });
        let done = self.context().check(OPERATION, status);
        let waited = self.wait_for(control);
        done.and(waited)
    }

    /// Empties the weights, so that they can be filled and prepared again in the same memory.
    ///
    /// # Errors
    /// None that live weights give.
    pub fn reset(&mut self) -> Result<()> {
        self.settle();
        let api = self.context().api();
        // SAFETY: weights that nobody else uses.
        let status = unsafe { api.dsv4mx_weights_reset(self.raw_mut()) };
        self.context().check("weights_reset", status)
    }

    /// Waits for the applies that this crate knows of.
    fn settle(&self) {
        #[cfg(feature = "cudarc")]
        self.pending.wait();
    }

    /// Waits for what a call has enqueued.
    fn wait_for(&self, control: &Control<'_>) -> Result<()> {
        match self.context().device() {
            Device::Cpu => Ok(()),
            _ => self.context().synchronize(control.on()),
        }
    }
}
