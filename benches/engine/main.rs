//! Micro-benchmarks of the engine, each beside its floor: the least that the same result could cost with the same
//! libraries on the same machine. What counts is the ratio; `benches/README.md` says how to read it.
//!
//! `cargo bench --bench engine -- index` runs one module, `-- 'index, hit'` the rows of it that are so called.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on shall fail")]

mod chunk;
mod frame;
mod identify;
mod index;
mod input;
mod memory;
mod plan;
mod store;
mod table;
mod tree;

use table::Bench;

type Run = fn(&mut Bench);

/// First the index, whose memory is measured while the process is still small.
const MODULES: [(&str, Run); 6] = [
    ("index", index::run),
    ("chunk", chunk::run),
    ("identify", identify::run),
    ("frame", frame::run),
    ("tree", tree::run),
    ("plan", plan::run),
];

fn main() {
    let word = std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or_default();
    let mut bench = Bench::new();
    for (name, run) in MODULES {
        if word.is_empty() || word.starts_with(name) {
            run(&mut bench);
        }
    }
    bench.print();
}
