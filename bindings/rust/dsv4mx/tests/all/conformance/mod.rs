//! Runs bindings/cases.json; what a case means is said there. On the CPU, and on a GPU where there is one.

mod data;
mod run;
mod sha256;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use dsv4mx::{Context, Device, DeviceInfo};
use serde_json::Value;

use run::{Outcome, run};

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cases.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut file: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(file["format"], 1);
    let Value::Array(cases) = file["cases"].take() else { panic!("no cases") };
    cases
}

/// What is wrong with an outcome; `rows` keeps those of earlier cases.
fn judge(case: &Value, outcome: &Outcome, rows: &mut HashMap<String, Vec<u8>>) -> Vec<String> {
    let expect = &case["expect"];
    let mut faults = Vec::new();
    let number = |key: &str| expect[key].as_f64().unwrap();
    for probe in expect["probes"].as_array().into_iter().flatten() {
        let (token, channel) = (probe[0].as_u64().unwrap(), probe[1].as_u64().unwrap());
        let (wanted, limit) = (probe[2].as_f64().unwrap(), number("tolerance"));
        let got = outcome.values[token as usize * outcome.hidden + channel as usize];
        // Also of a NaN.
        if (f64::from(got) - wanted).abs().partial_cmp(&limit).is_none_or(|o| o.is_gt()) {
            faults
                .push(format!("out[{token}][{channel}] is {got}, wanted {wanted} within {limit}"));
        }
    }
    if expect["sum"].is_number() {
        let sum: f64 = outcome.values.iter().map(|&v| f64::from(v)).sum();
        let abs_sum: f64 = outcome.values.iter().map(|&v| f64::from(v).abs()).sum();
        for (name, got) in [("sum", sum), ("abs_sum", abs_sum)] {
            let limit = number("sum_tolerance");
            if (got - number(name)).abs().partial_cmp(&limit).is_none_or(|o| o.is_gt()) {
                faults.push(format!("{name} is {got}, wanted {} within {limit}", number(name)));
            }
        }
    }
    if let Some(wanted) = expect["sha256"].as_str() {
        let got = sha256::hex(&outcome.rows);
        if got != wanted {
            faults.push(format!("sha256 is {got}, wanted {wanted}"));
        }
    }
    if let Some(other) = expect["same_bits_as"].as_str() {
        if rows[other].get(..outcome.rows.len()) != Some(&outcome.rows[..]) {
            faults.push(format!("differs from {other}"));
        }
    }
    if expect["counts"].is_array() && serde_json::json!(outcome.counts) != expect["counts"] {
        faults.push(format!("counts are {:?}, wanted {}", outcome.counts, expect["counts"]));
    }
    rows.insert(case["name"].as_str().unwrap().to_owned(), outcome.rows.clone());
    faults
}

fn run_all(context: &Context) {
    let cases = cases();
    let errors = cases.iter().filter(|case| case["expect"]["status"].is_string()).count();
    assert!(cases.len() >= 60 && errors >= 20, "{} cases, {errors} errors", cases.len());
    let cuda = context.device() == Device::Cuda;
    let mut rows = HashMap::new();
    let mut faults = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let expect = &case["expect"];
        match (run(case, context), expect["status"].as_str()) {
            (Ok(outcome), None) => {
                let found = judge(case, &outcome, &mut rows);
                faults.extend(found.into_iter().map(|fault| format!("{name}: {fault}")));
            }
            (Ok(_), Some(status)) => faults.push(format!("{name}: no {status}")),
            (Err(refused), None) => faults.push(format!("{name}: {refused}")),
            (Err(refused), Some(status)) => {
                let by = if cuda && expect["cuda_do"].is_string() { "cuda_do" } else { "do" };
                if (refused.status.name(), Some(refused.operation)) != (status, expect[by].as_str())
                {
                    faults.push(format!("{name}: {refused}, wanted {}: {status}", expect[by]));
                }
            }
        }
    }
    println!("{} cases, {errors} of them errors, on {:?}", cases.len(), context.device());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn on_the_cpu() {
    run_all(&Context::cpu().unwrap());
}

#[test]
fn on_a_gpu() {
    let usable = DeviceInfo::query(Device::Cuda, 0).is_ok_and(|info| info.supported);
    if !usable {
        println!("skipped: no CUDA device that the library supports");
        return;
    }
    run_all(&Context::cuda(0).unwrap());
}
