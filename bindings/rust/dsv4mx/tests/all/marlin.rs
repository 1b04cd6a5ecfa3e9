//! Marlin's form, out and in again.

use dsv4mx::{Batch, Context, Control, Layer, Marlin, MarlinPadding, Status, Weights, bf16};

use crate::common::*;

fn apply(layer: &Layer, weights: &Weights) -> Vec<bf16> {
    let inputs = inputs(4, 5);
    let mut y = vec![bf16::ZERO; 4 * HIDDEN];
    let batch = Batch::new(&inputs.x, &inputs.ids, &inputs.router_weights, &mut y);
    layer.apply(weights, batch, &mut layer.workspace(4).unwrap()).unwrap();
    y
}

#[test]
fn out_and_in_again() {
    let (layer, weights) = layer();
    let padding = layer.query_marlin().unwrap();
    assert!(padding.hidden % 64 == 0 && padding.hidden >= HIDDEN as i32);
    let mut marlin = Marlin::zeroed(padding, 0, EXPERTS).unwrap();
    weights.export_marlin(&mut marlin, &mut Control::new()).unwrap();
    assert!(marlin.w13.as_ref().unwrap().iter().any(|&word| word != 0));

    let mut again = Weights::new(&layer).unwrap();
    again.import_marlin(&marlin, &mut Control::new()).unwrap();
    again.prepare().unwrap();
    assert_eq!(apply(&layer, &again), apply(&layer, &weights));
}

#[test]
fn lengths_are_checked() {
    let (layer, weights) = layer();
    let padding = layer.query_marlin().unwrap();
    let mut marlin = Marlin::zeroed(padding, 0, EXPERTS).unwrap();
    marlin.w2.as_mut().unwrap().to_mut().pop();
    let error = weights.export_marlin(&mut marlin, &mut Control::new()).unwrap_err();
    assert_eq!(
        (error.status(), error.operation()),
        (Status::InvalidTensor, "weights_export_marlin")
    );
    assert!(error.text().starts_with("w2 has "), "{error}");

    let mut empty = Weights::new(&layer).unwrap();
    let none = Marlin::new(padding, 0, 0);
    let error = empty.import_marlin(&none, &mut Control::new()).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    let odd = MarlinPadding { hidden: 65, ..padding };
    let error = Marlin::zeroed(odd, 0, EXPERTS)
        .and_then(|marlin| empty.import_marlin(&marlin, &mut Control::new()))
        .unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument, "{error}");
    let huge = MarlinPadding { hidden: i32::MAX, intermediate: i32::MAX };
    assert_eq!(Marlin::zeroed(huge, 0, usize::MAX).unwrap_err().status(), Status::InvalidArgument);

    let raw = Layer::new(&Context::cpu().unwrap(), &desc()).unwrap();
    let unprepared = Weights::new(&raw).unwrap();
    let mut marlin = Marlin::zeroed(padding, 0, EXPERTS).unwrap();
    let error = unprepared.export_marlin(&mut marlin, &mut Control::new()).unwrap_err();
    assert_eq!(error.status(), Status::InvalidState);
}
