//! Runs pairs of work and floor under criterion, and prints what it found as one table.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use criterion::Criterion;

/// How much one call does.
#[derive(Clone, Copy)]
pub(crate) struct Amount {
    /// How many things.
    pub(crate) count: u64,
    /// What one of them is called.
    pub(crate) unit: &'static str,
    /// Clear bytes; 0 where they say nothing.
    pub(crate) bytes: u64,
}

/// Work that was measured beside its floor.
struct Row {
    work: String,
    amount: Amount,
    floor: &'static str,
}

/// The benchmarks of one run.
pub(crate) struct Bench {
    criterion: Criterion,
    results: PathBuf,
    begun: SystemTime,
    rows: Vec<Row>,
    notes: Vec<String>,
}

const OURS: &str = "ours";
const FLOOR: &str = "floor";

impl Bench {
    pub(crate) fn new() -> Self {
        let results = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("criterion");
        let criterion = Criterion::default()
            .output_directory(&results)
            .without_plots()
            .sample_size(20)
            .nresamples(2_000)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(1500))
            .configure_from_args();
        Self { criterion, results, begun: SystemTime::now(), rows: Vec::new(), notes: Vec::new() }
    }

    /// Measures work and, right after it, its floor, whose description ends its row.
    pub(crate) fn pair<A, B>(
        &mut self,
        work: &str,
        amount: Amount,
        floor: &'static str,
        mut ours: impl FnMut() -> A,
        mut bare: impl FnMut() -> B,
    ) {
        let mut group = self.criterion.benchmark_group(work);
        group.bench_function(OURS, |b| b.iter(&mut ours));
        group.bench_function(FLOOR, |b| b.iter(&mut bare));
        group.finish();
        self.rows.push(Row { work: work.into(), amount, floor });
    }

    /// A line below the table.
    pub(crate) fn note(&mut self, line: String) {
        self.notes.push(line);
    }

    /// Prints the table of what was measured.
    pub(crate) fn print(&self) {
        println!();
        println!("| work | ours | MiB/s | floor | MiB/s | ÷ floor | the floor is |");
        println!("|---|---|---|---|---|---|---|");
        for Row { work, amount, floor } in &self.rows {
            // Left out, or only tried, by the arguments of this run.
            let (Some(ours), Some(bare)) = (self.median(work, OURS), self.median(work, FLOOR)) else {
                continue;
            };
            let each = |ns: f64| format!("{}/{}", time(ns / amount.count as f64), amount.unit);
            let rate = |ns: f64| match amount.bytes {
                0 => "–".into(),
                bytes => format!("{:.0}", bytes as f64 / f64::from(1 << 20) / (ns / 1e9)),
            };
            println!(
                "| {work} | {} | {} | {} | {} | {:.2} | {floor} |",
                each(ours),
                rate(ours),
                each(bare),
                rate(bare),
                ours / bare
            );
        }
        for note in &self.notes {
            println!("\n{note}");
        }
    }

    /// The median time of a call in ns, if this run measured it.
    fn median(&self, work: &str, which: &str) -> Option<f64> {
        let path = self.results.join(work).join(which).join("new/estimates.json");
        let written = path.metadata().and_then(|m| m.modified()).ok()?;
        let estimates: serde_json::Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
        (written >= self.begun).then(|| estimates["median"]["point_estimate"].as_f64())?
    }
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 100.0 => format!("{ns:.1} ns"),
        ns if ns < 10_000.0 => format!("{ns:.0} ns"),
        ns if ns < 100_000.0 => format!("{:.1} µs", ns / 1e3),
        ns => format!("{:.0} µs", ns / 1e3),
    }
}
