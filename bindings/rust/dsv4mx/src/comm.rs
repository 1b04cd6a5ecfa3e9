//! Communicators: one rank of a tensor- or expert-parallel group.

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::buffer::Workspace;
use crate::context::{Context, non_null};
use crate::control::Control;
use crate::enums::{CommKind, CommStage, CommTransport, Dtype, EpCombine, Status, TpReduce};
use crate::error::{BoxError, Result};
use crate::gather::{Gather, Meeting};
use crate::layer::{Layer, WorkspaceInfo};
use crate::{nccl, sys, text};

/// How a rank joins a group: which rank of how many, how they meet, and the sizes of what they exchange.
///
/// Ranks are numbered part by part: rank r is tensor-parallel rank `r % tp_size` of expert-parallel part `r / tp_size`. All
/// that is set here is the same on every rank, but the rank itself and the way to meet; what differs is refused with the
/// field's name on every rank.
pub struct CommDesc {
    // Its pointers are NULL but during a call.
    raw: sys::dsv4mx_comm_desc,
    gather: Option<Gather>,
    nccl_id: Option<[u8; 128]>,
    nccl_path: Option<std::path::PathBuf>,
}

// SAFETY: the closure is Send; of the raw struct's pointers only an ncclComm_t is not NULL, which `nccl_borrow`'s caller
// vouches for.
unsafe impl Send for CommDesc {}

impl CommDesc {
    /// A group of one rank, which exchanges nothing.
    pub fn single() -> Self {
        Self::of(CommKind::SelfOnly, 0, 1)
    }

    /// Ranks that are threads of this process: all give the same `group`, and no other group that forms at the same time
    /// does.
    pub fn local(rank: i32, size: i32, group: u64) -> Self {
        let mut desc = Self::of(CommKind::Local, rank, size);
        desc.raw.group = group;
        desc
    }

    /// Ranks that meet over the caller's all-gather: MPI, a store, sockets. Ranks in processes of one host exchange rows in
    /// shared memory.
    ///
    /// The closure is given this rank's bytes, and room for those of all ranks in their order. It is called by create,
    /// prepare and reset, with [`CommTransport::Collective`] by apply too, on the thread that makes the call. What it fails
    /// with is the error's source; a panic in it goes on when the call has returned.
    pub fn callback<E: Into<BoxError>>(
        rank: i32,
        size: i32,
        mut all_gather: impl FnMut(&[u8], &mut [u8]) -> std::result::Result<(), E> + Send + 'static,
    ) -> Self {
        let mut desc = Self::of(CommKind::Callback, rank, size);
        desc.gather = Some(Box::new(move |mine, all| all_gather(mine, all).map_err(Into::into)));
        desc
    }

    /// Ranks that meet over NCCL by a unique id ([`crate::NcclInfo::unique_id`]), which one makes and the caller's bootstrap carries
    /// to the others.
    pub fn nccl_id(rank: i32, size: i32, id: [u8; 128]) -> Self {
        let mut desc = Self::of(CommKind::NcclId, rank, size);
        desc.nccl_id = Some(id);
        desc
    }

    /// Ranks of the caller's `ncclComm_t`, which is split unless [`CommDesc::no_split`] is set.
    ///
    /// # Safety
    /// `comm` is a live communicator of the NCCL that is found ([`CommDesc::nccl_path`]), of this rank and size, and lives as
    /// long as what is made from it; without a split nobody else uses it during a call.
    pub unsafe fn nccl_borrow(rank: i32, size: i32, comm: *mut c_void) -> Self {
        let mut desc = Self::of(CommKind::NcclBorrow, rank, size);
        desc.raw.nccl_comm = comm;
        desc
    }

    fn of(kind: CommKind, rank: i32, size: i32) -> Self {
        let raw = sys::dsv4mx_comm_desc { kind: kind.into(), rank, size, ..Default::default() };
        Self { raw, gather: None, nccl_id: None, nccl_path: None }
    }

    /// Tensor-parallel ranks of each expert-parallel part, a divisor of the size; 1 by default.
    pub fn tp_size(mut self, ranks: i32) -> Self {
        self.raw.tp_size = ranks;
        self
    }

    /// Most tokens of one round on any rank, 1..131072: it sizes the windows.
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.raw.max_tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        self
    }

    /// Largest hidden of the layers that use it.
    pub fn max_hidden(mut self, hidden: i32) -> Self {
        self.raw.max_hidden = hidden;
        self
    }

    /// Largest top_k of the layers that use it.
    pub fn max_top_k(mut self, top_k: i32) -> Self {
        self.raw.max_top_k = top_k;
        self
    }

    /// What carries rows; [`CommTransport::Auto`] by default.
    pub fn transport(mut self, transport: CommTransport) -> Self {
        self.raw.transport = transport.into();
        self
    }

    /// How expert-parallel results come home; [`EpCombine::RouteExact`] by default.
    pub fn ep_combine(mut self, combine: EpCombine) -> Self {
        self.raw.ep_combine = combine.into();
        self
    }

    /// How tensor-parallel partial sums are added; [`TpReduce::RankOrder`] by default.
    pub fn tp_reduce(mut self, reduce: TpReduce) -> Self {
        self.raw.tp_reduce = reduce.into();
        self
    }

    /// With [`TpReduce::Invariant`]: slices of intermediate, a power of two from tp_size to 64; 8 by default.
    pub fn tp_slices(mut self, slices: i32) -> Self {
        self.raw.tp_slices = slices;
        self
    }

    /// What routes travel as, and the slot dtype of layers with [`EpCombine::RouteExact`]: bf16 by default, or f32.
    pub fn slot_dtype(mut self, dtype: Dtype) -> Self {
        self.raw.slot_dtype = dtype.into();
        self
    }

    /// What partial sums travel as: f32 by default, or bf16.
    pub fn partial_dtype(mut self, dtype: Dtype) -> Self {
        self.raw.partial_dtype = dtype.into();
        self
    }

    /// Longest wait for another rank; 10 seconds by default.
    pub fn timeout(mut self, limit: Duration) -> Self {
        // 0 would be the default.
        self.raw.timeout_ns = i64::try_from(limit.as_nanos()).unwrap_or(i64::MAX).max(1);
        self
    }

    /// [`CommDesc::nccl_borrow`]: use the communicator itself.
    pub fn no_split(mut self) -> Self {
        self.raw.flags |= sys::DSV4MX_COMM_NO_SPLIT as u32;
        self
    }

    /// [`CommDesc::nccl_id`]: refuse unless the environment has `NCCL_NVLS_ENABLE=0`.
    pub fn forbid_multicast(mut self) -> Self {
        self.raw.flags |= sys::DSV4MX_COMM_FORBID_MULTICAST as u32;
        self
    }

    /// File of NCCL; by default that of `DSV4MX_NCCL_PATH`, what the process has loaded, or `libnccl.so.2`.
    pub fn nccl_path(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.nccl_path = Some(path.into());
        self
    }
}

impl fmt::Debug for CommDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommDesc")
            .field("kind", &CommKind::from(self.raw.kind))
            .field("rank", &self.raw.rank)
            .field("size", &self.raw.size)
            .field("tp_size", &self.raw.tp_size)
            .field("max_tokens", &self.raw.max_tokens)
            .finish_non_exhaustive()
    }
}

/// One rank of a group.
///
/// [`Comm::new`], [`Comm::prepare`], an apply with [`crate::Batch::comm`] and [`Comm::reset`] are collective: every rank
/// makes them in the same order, at the same time. No call waits longer for another rank than the timeout; what goes wrong is
/// an error with stage, round and rank on every rank. One call at a time, hence `&mut`; [`Comm::abort_handle`] ends a call
/// from another thread.
///
/// Dropping leaves the group: ranks that still wait for this one get [`Status::CommRankLost`].
pub struct Comm {
    inner: Arc<Inner>,
}

struct Inner {
    raw: NonNull<sys::dsv4mx_comm>,
    // Used by the library until `raw` is destroyed.
    meeting: Option<Arc<Meeting>>,
    context: Context,
}

// SAFETY: what needs it alone is called through `&mut Comm`; destroying may happen on any thread; the closure is Send.
unsafe impl Send for Inner {}
// SAFETY: through a shared reference only query, query_faults, get_loads and abort are called, which any thread may.
unsafe impl Sync for Inner {}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: made by create, destroyed once.
        unsafe { self.context.api().dsv4mx_comm_destroy(self.raw.as_ptr()) }
    }
}

impl Comm {
    /// Joins a group; collective.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::Unsupported`], [`Status::CommMismatch`] (field, rank, got, wanted),
    /// [`Status::CommTimeout`] (a rank that did not come), [`Status::CommRankLost`], [`Status::CommError`],
    /// [`Status::NcclUnavailable`], [`Status::NcclError`], [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn new(context: &Context, desc: CommDesc) -> Result<Self> {
        Self::new_with(context, desc, &mut Control::new())
    }

    /// As [`Comm::new`], under control.
    ///
    /// # Errors
    /// As [`Comm::new`], [`Status::Cancelled`], [`Status::DeadlineExceeded`]
    pub fn new_with(context: &Context, desc: CommDesc, control: &mut Control<'_>) -> Result<Self> {
        const OPERATION: &str = "comm_create";
        let CommDesc { raw: mut fields, gather, nccl_id, nccl_path } = desc;
        let meeting = gather.map(|gather| Arc::new(Meeting::new(gather, fields.size)));
        if let Some(meeting) = &meeting {
            meeting.bind(&mut fields);
        }
        let path = nccl::path_to_c(OPERATION, nccl_path.as_deref())?;
        let source = nccl::source(&path);
        if path.is_some() {
            fields.nccl = &source;
        }
        if let Some(id) = &nccl_id {
            fields.nccl_id = id.as_ptr().cast();
        }
        let mut raw = ptr::null_mut();
        let status = control.run(|control, _| {
            fields.control = control;
            // SAFETY: a live context; the descriptor and what it points to live for the call, the closure for as long as
            // the communicator.
            unsafe { context.api().dsv4mx_comm_create(context.raw(), &fields, &mut raw) }
        });
        let made =
            context.check(OPERATION, status).and_then(|()| non_null(OPERATION, raw)).map(|raw| {
                let inner = Inner { raw, meeting: meeting.clone(), context: context.clone() };
                Comm { inner: Arc::new(inner) }
            });
        Meeting::finish(meeting.as_deref(), made)
    }

    /// Makes a layer ready for apply with this group; collective. To be called again after [`Layer::set_placement`].
    ///
    /// # Errors
    /// [`Status::InvalidArgument`] (sizes beyond the communicator's, an id that no rank holds, a part that does not fit the
    /// rank), [`Status::Unsupported`] (a mode that this layer cannot keep), [`Status::CommMismatch`] (field, rank, got,
    /// wanted), [`Status::OutOfMemory`], and those of a rank that is missing.
    pub fn prepare(&mut self, layer: &Layer) -> Result<()> {
        self.prepare_with(layer, &mut Control::new())
    }

    /// As [`Comm::prepare`], under control.
    ///
    /// # Errors
    /// As [`Comm::prepare`], [`Status::Cancelled`], [`Status::DeadlineExceeded`]
    pub fn prepare_with(&mut self, layer: &Layer, control: &mut Control<'_>) -> Result<()> {
        let status = control.run(|control, _| {
            // SAFETY: a communicator that nobody else uses, a live layer; control lives for the call.
            unsafe { self.api().dsv4mx_comm_prepare(self.raw(), layer.raw(), control) }
        });
        self.finish("comm_prepare", status)
    }

    /// Workspace for calls of up to `max_tokens` tokens of a prepared layer: rows of other ranks need room too, also where
    /// this rank has no tokens.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`]
    pub fn query_workspace(&self, layer: &Layer, max_tokens: usize) -> Result<WorkspaceInfo> {
        layer.query_workspace_of(max_tokens, self.raw())
    }

    /// The workspace with which calls of up to `max_tokens` tokens of a prepared layer run at full speed.
    ///
    /// # Errors
    /// [`Status::InvalidArgument`], [`Status::OutOfMemory`], [`Status::CudaError`]
    pub fn workspace(&self, layer: &Layer, max_tokens: usize) -> Result<Workspace> {
        Workspace::new(layer.context(), self.query_workspace(layer, max_tokens)?.bytes)
    }

    /// What the communicator is.
    ///
    /// # Errors
    /// None that a live communicator gives.
    pub fn query(&self) -> Result<CommInfo> {
        let mut info = sys::dsv4mx_comm_info::INIT;
        // SAFETY: a live communicator, and a struct with its size.
        let status = unsafe { self.api().dsv4mx_comm_query(self.raw(), &mut info) };
        self.inner.context.check("comm_query", status)?;
        Ok(CommInfo {
            kind: info.kind.into(),
            transport: info.transport.into(),
            rank: info.rank,
            size: info.size,
            ep_rank: info.ep_rank,
            ep_size: info.ep_size,
            tp_rank: info.tp_rank,
            tp_size: info.tp_size,
            window_bytes: info.window_bytes,
            nccl_version: info.nccl_version,
            reason: text::from_field(&info.reason),
            nccl_file: text::from_field(&info.nccl_file),
        })
    }

    /// The fault that ended the group's work, if any; waits for nothing.
    ///
    /// # Errors
    /// None that a live communicator gives.
    pub fn query_faults(&self) -> Result<CommFaultInfo> {
        self.inner.query_faults()
    }

    /// Ends the group's work: every rank's apply gives [`Status::CommRankLost`] with this rank.
    ///
    /// # Errors
    /// None that a live communicator gives.
    pub fn abort(&self) -> Result<()> {
        self.inner.abort()
    }

    /// What ends the group's work from another thread, also while this one is inside an apply.
    pub fn abort_handle(&self) -> AbortHandle {
        AbortHandle(Arc::downgrade(&self.inner))
    }

    /// Begins anew after a fault, with the same ranks and prepared layers; collective: all ranks are alive and in no other
    /// call. With a rank lost make a new communicator instead.
    ///
    /// # Errors
    /// Those of a rank that is missing, [`Status::Unsupported`] (NCCL's own communicator failed)
    pub fn reset(&mut self) -> Result<()> {
        self.reset_with(&mut Control::new())
    }

    /// As [`Comm::reset`], under control.
    ///
    /// # Errors
    /// As [`Comm::reset`], [`Status::Cancelled`], [`Status::DeadlineExceeded`]
    pub fn reset_with(&mut self, control: &mut Control<'_>) -> Result<()> {
        let status = control.run(|control, _| {
            // SAFETY: a communicator that nobody else uses; control lives for the call.
            unsafe { self.api().dsv4mx_comm_reset(self.raw(), control) }
        });
        self.finish("comm_reset", status)
    }

    /// Pairs that each local expert of a prepared layer computed here for all ranks since it was prepared; waits for
    /// nothing.
    ///
    /// # Errors
    /// [`Status::InvalidState`] (not prepared, or a group of one, which counts nothing)
    pub fn loads(&self, layer: &Layer) -> Result<Vec<i64>> {
        let experts = layer.query()?.experts;
        let mut pairs = vec![0; usize::try_from(experts).unwrap_or(0)];
        // SAFETY: live objects, and as many counts as are told.
        let status = unsafe {
            self.api().dsv4mx_comm_get_loads(self.raw(), layer.raw(), pairs.as_mut_ptr(), experts)
        };
        self.inner.context.check("comm_get_loads", status)?;
        Ok(pairs)
    }

    /// The context it was made on.
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    pub(crate) fn raw(&self) -> *mut sys::dsv4mx_comm {
        self.inner.raw.as_ptr()
    }

    pub(crate) fn meeting(&self) -> Option<&Meeting> {
        self.inner.meeting.as_deref()
    }

    fn api(&self) -> &'static sys::Api {
        self.inner.context.api()
    }

    fn finish(&self, operation: &'static str, status: sys::dsv4mx_status) -> Result<()> {
        let result = self.inner.context.check(operation, status);
        Meeting::finish(self.inner.meeting.as_deref(), result)
    }
}

impl Inner {
    fn query_faults(&self) -> Result<CommFaultInfo> {
        let mut info = sys::dsv4mx_comm_fault_info::INIT;
        // SAFETY: a live communicator, and a struct with its size.
        let status =
            unsafe { self.context.api().dsv4mx_comm_query_faults(self.raw.as_ptr(), &mut info) };
        self.context.check("comm_query_faults", status)?;
        Ok(CommFaultInfo {
            status: info.status.into(),
            stage: info.stage.into(),
            rank: (info.rank >= 0).then_some(info.rank),
            found_by: info.found_by,
            round: info.round,
        })
    }

    fn abort(&self) -> Result<()> {
        // SAFETY: a live communicator; any thread may.
        let status = unsafe { self.context.api().dsv4mx_comm_abort(self.raw.as_ptr()) };
        self.context.check("comm_abort", status)
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comm").field("context", &self.inner.context).finish_non_exhaustive()
    }
}

/// Ends a group's work, or looks at its faults, from any thread; made by [`Comm::abort_handle`]. It keeps no communicator
/// alive: once that is dropped there is nothing to end.
#[derive(Clone, Debug)]
pub struct AbortHandle(Weak<Inner>);

impl AbortHandle {
    /// As [`Comm::abort`]; nothing where the communicator is gone.
    ///
    /// # Errors
    /// None that a live communicator gives.
    pub fn abort(&self) -> Result<()> {
        self.0.upgrade().map_or(Ok(()), |inner| inner.abort())
    }

    /// As [`Comm::query_faults`]; `None` where the communicator is gone.
    ///
    /// # Errors
    /// None that a live communicator gives.
    pub fn query_faults(&self) -> Result<Option<CommFaultInfo>> {
        self.0.upgrade().map(|inner| inner.query_faults()).transpose()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Comm")
    }
}

/// What a communicator is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommInfo {
    /// How the ranks met.
    pub kind: CommKind,
    /// What carries rows; [`CommTransport::Auto`] for a group of one.
    pub transport: CommTransport,
    /// This rank.
    pub rank: i32,
    /// Ranks of the group.
    pub size: i32,
    /// Expert-parallel part of this rank.
    pub ep_rank: i32,
    /// Expert-parallel parts.
    pub ep_size: i32,
    /// Tensor-parallel rank of this rank.
    pub tp_rank: i32,
    /// Tensor-parallel ranks.
    pub tp_size: i32,
    /// Memory of this rank's window and scratch.
    pub window_bytes: i64,
    /// As `ncclGetVersion` gives it; 0 without NCCL.
    pub nccl_version: i32,
    /// Why this transport.
    pub reason: String,
    /// File of NCCL, empty without.
    pub nccl_file: String,
}

/// The first fault of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommFaultInfo {
    /// [`Status::CommTimeout`], [`Status::CommRankLost`], [`Status::CommMismatch`], [`Status::CommError`],
    /// [`Status::NcclError`]; [`Status::Ok`] if there is none.
    pub status: Status,
    /// Where.
    pub stage: CommStage,
    /// The rank that was waited for, that was out of step, or that aborted; `None` where a collective does not say.
    pub rank: Option<i32>,
    /// The rank that found it.
    pub found_by: i32,
    /// Rounds of that stage since the creation or the last reset, this one included.
    pub round: u32,
}
