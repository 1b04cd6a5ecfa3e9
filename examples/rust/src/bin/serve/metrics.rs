//! Counters of the service, in the text form that Prometheus reads.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::batcher::Refusal;

/// Upper ends of the buckets of latency, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

#[derive(Default)]
pub struct Metrics {
    answered: AtomicU64,
    malformed: AtomicU64,
    busy: AtomicU64,
    failed: AtomicU64,
    batches: AtomicU64,
    tokens: AtomicU64,
    buckets: [AtomicU64; BUCKETS.len()],
    microseconds: AtomicU64,
}

impl Metrics {
    pub fn count(&self, refusal: Option<&Refusal>, took: Duration) {
        match refusal {
            Some(Refusal::Malformed(_)) => &self.malformed,
            Some(Refusal::Busy) => &self.busy,
            Some(Refusal::Failed(_)) => &self.failed,
            None => {
                self.microseconds.fetch_add(took.as_micros() as u64, Relaxed);
                for (bucket, end) in self.buckets.iter().zip(BUCKETS) {
                    if took.as_secs_f64() <= end {
                        bucket.fetch_add(1, Relaxed);
                    }
                }
                &self.answered
            }
        }
        .fetch_add(1, Relaxed);
    }

    pub fn count_batch(&self, tokens: usize) {
        self.batches.fetch_add(1, Relaxed);
        self.tokens.fetch_add(tokens as u64, Relaxed);
    }

    pub fn render(&self, waiting: usize) -> String {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        let mut text = String::from("# TYPE dsv4mx_requests_total counter\n");
        for (code, counter) in
            [(200, &self.answered), (400, &self.malformed), (500, &self.failed), (503, &self.busy)]
        {
            let _ = writeln!(text, "dsv4mx_requests_total{{code=\"{code}\"}} {}", get(counter));
        }
        for (name, value) in [("batches", &self.batches), ("tokens", &self.tokens)] {
            let _ = writeln!(text, "# TYPE dsv4mx_{name}_total counter");
            let _ = writeln!(text, "dsv4mx_{name}_total {}", get(value));
        }
        let _ = writeln!(text, "# TYPE dsv4mx_queue gauge\ndsv4mx_queue {waiting}");
        let _ = writeln!(text, "# TYPE dsv4mx_latency_seconds histogram");
        for (bucket, end) in self.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(text, "dsv4mx_latency_seconds_bucket{{le=\"{end}\"}} {}", get(bucket));
        }
        let all = get(&self.answered);
        let _ = writeln!(text, "dsv4mx_latency_seconds_bucket{{le=\"+Inf\"}} {all}");
        let sum = get(&self.microseconds) as f64 * 1e-6;
        let _ =
            writeln!(text, "dsv4mx_latency_seconds_sum {sum}\ndsv4mx_latency_seconds_count {all}");
        text
    }
}
