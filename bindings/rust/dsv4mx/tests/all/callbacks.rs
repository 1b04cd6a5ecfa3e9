//! Callbacks, and panics in them.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dsv4mx::{
    Allocator, CancelFlag, Context, Control, Device, Layer, LogLevel, Memory, Stage, Status,
    Tensor, Weights, WeightsState,
};

use crate::common::*;

/// Weights with everything set, not prepared.
fn filled(layer: &Layer) -> Weights {
    let mut weights = Weights::new(layer).unwrap();
    for (name, bytes, shape) in tensors(1) {
        weights.set(name, &Tensor::new(&bytes, &shape).unwrap()).unwrap();
    }
    weights
}

fn new_layer() -> Layer {
    Layer::new(&Context::cpu().unwrap(), &desc()).unwrap()
}

#[test]
fn progress_is_reported() {
    let layer = new_layer();
    let mut weights = filled(&layer);
    let mut seen = Vec::new();
    let mut control = Control::new().progress(|progress| {
        seen.push(progress);
        ControlFlow::Continue(())
    });
    weights.prepare_with(&mut control).unwrap();
    drop(control);
    let first = seen.iter().find(|p| p.stage == Stage::Prepare).unwrap();
    let last = seen.last().unwrap();
    assert_eq!((first.done, first.total), (0, EXPERTS as i64));
    assert_eq!(
        (last.stage, last.done, last.total),
        (Stage::Prepare, EXPERTS as i64, EXPERTS as i64)
    );
}

#[test]
fn breaking_cancels_and_the_call_can_be_repeated() {
    let layer = new_layer();
    let mut weights = filled(&layer);
    let mut control = Control::new().progress(|_| ControlFlow::Break(()));
    let error = weights.prepare_with(&mut control).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::Cancelled, "weights_prepare"));
    weights.prepare().unwrap();
    assert_eq!(weights.query().unwrap().state, WeightsState::Prepared);
}

#[test]
fn a_panic_goes_on_behind_the_call() {
    let layer = new_layer();
    let mut weights = filled(&layer);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let mut control = Control::new().progress(|_| panic!("of the caller"));
        weights.prepare_with(&mut control)
    }));
    let payload = panicked.expect_err("the panic");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"of the caller"));
    weights.prepare().unwrap();
}

#[test]
fn a_flag_cancels() {
    let layer = new_layer();
    let mut weights = filled(&layer);
    let flag = CancelFlag::new();
    flag.clone().cancel();
    let mut control = Control::new().cancel(&flag);
    assert_eq!(weights.prepare_with(&mut control).unwrap_err().status(), Status::Cancelled);
    assert!(flag.is_cancelled());
    flag.reset();
    weights.prepare_with(&mut control).unwrap();
}

#[test]
fn a_limit_ends_a_call() {
    let layer = new_layer();
    let mut weights = filled(&layer);
    let slow = |_| {
        std::thread::sleep(Duration::from_millis(5));
        ControlFlow::Continue(())
    };
    for limit in [Duration::ZERO, Duration::from_millis(1)] {
        let mut control = Control::new().progress(slow).timeout(limit);
        let error = weights.prepare_with(&mut control).unwrap_err();
        assert_eq!(error.status(), Status::DeadlineExceeded, "{limit:?}");
    }
    weights.prepare_with(&mut Control::new().timeout(Duration::MAX)).unwrap();
}

#[test]
fn the_log_gets_lines() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let log = lines.clone();
    let context = Context::builder()
        .device(Device::Cpu)
        .log(LogLevel::Debug, move |level, text| log.lock().unwrap().push((level, text.to_owned())))
        .build()
        .unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    filled(&layer).prepare().unwrap();
    let lines = lines.lock().unwrap();
    assert!(lines.iter().any(|(level, _)| *level == LogLevel::Info));
    assert!(
        lines
            .iter()
            .any(|(level, text)| { *level == LogLevel::Debug && text.contains("w13_weight") })
    );
    assert!(lines.iter().all(|(_, text)| !text.contains('\n')));
}

#[test]
fn a_panic_in_the_log_stays_there() {
    let context = Context::builder()
        .device(Device::Cpu)
        .log(LogLevel::Debug, |_, _| panic!("in the log"))
        .build()
        .unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    filled(&layer).prepare().unwrap();
}

#[derive(Clone, Default)]
struct Counting {
    live: Arc<AtomicI64>,
    total: Arc<AtomicI64>,
    panics: Arc<AtomicBool>,
}

const ALIGNMENT: usize = 4096;

// SAFETY: memory of the global allocator with an alignment that is enough for the library, which is checked.
unsafe impl Allocator for Counting {
    fn alloc(&self, bytes: usize, alignment: usize, memory: Memory, _: *mut c_void) -> *mut c_void {
        assert!(!self.panics.load(SeqCst), "no memory today");
        assert!(alignment <= ALIGNMENT && alignment.is_power_of_two() && bytes > 0);
        assert_eq!(memory, Memory::Host);
        self.live.fetch_add(bytes as i64, SeqCst);
        self.total.fetch_add(bytes as i64, SeqCst);
        // SAFETY: not of size 0.
        unsafe { alloc(Layout::from_size_align(bytes, ALIGNMENT).unwrap()).cast() }
    }

    unsafe fn free(&self, pointer: *mut c_void, bytes: usize, memory: Memory, _: *mut c_void) {
        assert_eq!(memory, Memory::Host);
        self.live.fetch_sub(bytes as i64, SeqCst);
        // SAFETY: as given by alloc.
        unsafe { dealloc(pointer.cast(), Layout::from_size_align(bytes, ALIGNMENT).unwrap()) }
    }
}

#[test]
fn memory_comes_from_the_allocator_and_goes_back() {
    let counting = Counting::default();
    let context =
        Context::builder().device(Device::Cpu).allocator(counting.clone()).build().unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    let weights = weights(&layer);
    let workspace = layer.workspace(8).unwrap();
    assert!(counting.total.load(SeqCst) >= weights.query().unwrap().bytes);
    drop(workspace);
    drop(context);
    drop(layer);
    drop(weights);
    assert_eq!(counting.live.load(SeqCst), 0);
    // The hooks went with the context.
    assert_eq!(Arc::strong_count(&counting.live), 1);
}

#[test]
fn a_panic_in_the_allocator_is_no_memory() {
    let counting = Counting::default();
    let context =
        Context::builder().device(Device::Cpu).allocator(counting.clone()).build().unwrap();
    let layer = Layer::new(&context, &desc()).unwrap();
    counting.panics.store(true, SeqCst);
    let error = layer.workspace(8).unwrap_err();
    assert_eq!((error.status(), error.operation()), (Status::OutOfMemory, "context_alloc"));
    counting.panics.store(false, SeqCst);
    layer.workspace(8).unwrap();
}
