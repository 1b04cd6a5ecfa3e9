//! What may be shared is, and error texts stay with their thread.

use std::sync::{Arc, Barrier};
use std::thread;

use dsv4mx::{
    Batch, Bound, Buffer, CancelFlag, Checkpoint, Context, Error, Layer, LayerDesc, Stream, Tensor,
    Weights, Workspace, bf16,
};

use crate::common::*;

#[test]
fn send_and_sync_are_as_stated() {
    fn both<T: Send + Sync>() {}
    both::<Context>();
    both::<Layer>();
    both::<LayerDesc>();
    both::<Weights>();
    both::<Checkpoint>();
    both::<Buffer>();
    both::<Workspace>();
    both::<Bound<'_>>();
    both::<Error>();
    both::<CancelFlag>();
    both::<dsv4mx::Comm>();
    both::<dsv4mx::AbortHandle>();
    both::<Stream<'_>>();
    both::<dsv4mx::sys::LoadError>();
}

/// Tensors and controls hold pointers or closures of one thread.
#[test]
fn what_belongs_to_one_thread_does() {
    // If one of these became Send, `check` would be ambiguous and this would not compile.
    trait Ambiguous<A> {
        fn check() {}
    }
    impl<T: ?Sized> Ambiguous<()> for T {}
    struct Sendable;
    impl<T: ?Sized + Send> Ambiguous<Sendable> for T {}
    <Tensor<'_> as Ambiguous<_>>::check();
    <dsv4mx::Control<'_> as Ambiguous<_>>::check();
    <dsv4mx::DeviceBatch as Ambiguous<_>>::check();
}

#[test]
fn many_threads_apply_one_layer() {
    let (layer, weights) = layer();
    let (layer, weights) = (Arc::new(layer), Arc::new(weights));
    let tokens = 5;
    let run = move |layer: &Layer, weights: &Weights, seed| {
        let inputs = inputs(tokens, seed);
        let mut y = vec![bf16::ZERO; tokens * HIDDEN];
        let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
        layer.apply(weights, batch, &mut layer.workspace(tokens).unwrap()).unwrap();
        y
    };
    let expected: Vec<_> = (0..8).map(|seed| run(&layer, &weights, seed)).collect();
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8u64)
        .map(|seed| {
            let (layer, weights, barrier) = (layer.clone(), weights.clone(), barrier.clone());
            let expected = expected[seed as usize].clone();
            thread::spawn(move || {
                barrier.wait();
                for _ in 0..50 {
                    assert_eq!(run(&layer, &weights, seed), expected);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn an_error_has_the_text_of_its_own_call() {
    let context = Context::cpu().unwrap();
    thread::scope(|scope| {
        for n in 0..8 {
            let context = &context;
            scope.spawn(move || {
                for i in 0..2000 {
                    // No multiple of 32.
                    let hidden = 33 + 64 * (8 * i % 800 + n);
                    let error = Layer::new(context, &LayerDesc::new(hidden, 32, 4, 2)).unwrap_err();
                    assert!(error.text().contains(&hidden.to_string()), "{hidden}: {error}");
                }
            });
        }
    });
}

#[test]
fn any_order_of_dropping() {
    let (layer, weights) = layer();
    let context = layer.context().clone();
    let workspace = layer.workspace(1).unwrap();
    let buffer = Buffer::zeroed(&context, 100).unwrap();
    drop(context);
    drop(layer);
    // Moved to another thread to be dropped there.
    thread::spawn(move || drop(weights)).join().unwrap();
    assert_eq!(buffer.bytes(), 100);
    drop(buffer);
    drop(workspace);
}
