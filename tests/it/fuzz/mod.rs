//! Every parser of what is stored, configured or comes from outside, fed with damaged, absurd and hostile bytes.
//!
//! No case may panic, allocate without measure, or go on for ever. What a case is follows from the seed, the parser and
//! the case's number alone; a failure names all three.
//!
//! ```console
//! $ cargo test --release --test it fuzz                              # a few seconds
//! $ REGROW_FUZZ_SECONDS=600 cargo test --release --test it fuzz      # as long as that, over all parsers
//! $ REGROW_FUZZ_ONLY=html cargo test --release --test it fuzz        # one parser
//! ```

pub mod allocator;
mod mutate;
mod parsers;
pub mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::random_ops::Rng;

/// Most bytes that one allocation of a case may ask for.
const LARGEST: u64 = 256 << 20;
/// Most bytes that a case may hold, beside what other tests hold.
const HELD: u64 = 1 << 30;
/// Most bytes that a case may allocate over its time: what bounds its steps, whatever the machine's speed.
const IN_ALL: u64 = 8 << 30;
/// Silence after which a case counts as one that never ends.
const STUCK: Duration = Duration::from_secs(120);
/// Fewest cases of each parser.
const CASES: u64 = 40;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

#[test]
fn no_bytes_make_a_parser_panic_or_take_all_memory() {
    let seconds: f64 = variable("REGROW_FUZZ_SECONDS").map_or(6.0, |s| s.parse().expect("seconds"));
    let seed: u64 = variable("REGROW_SEED").map_or(7, |s| s.parse().expect("a number"));
    let only = variable("REGROW_FUZZ_ONLY");
    let parsers: Vec<_> = parsers::all()
        .into_iter()
        .filter(|p| only.as_ref().is_none_or(|name| p.name.contains(name.as_str())))
        .collect();
    let each = Duration::from_secs_f64(seconds / parsers.len().max(1) as f64);
    let beat = watch();
    let mut failures = Vec::new();
    let mut done = Vec::new();
    for mut parser in parsers {
        let until = Instant::now() + each;
        let mut cases = 0;
        while cases < CASES || Instant::now() < until {
            let mut rng = Rng::new(seed ^ (cases << 20) ^ blake3_of(parser.name));
            let bytes = mutate::bytes(&mut rng, &parser.seeds, parser.json);
            beat.fetch_add(1, Ordering::Relaxed);
            allocator::begin(parser.name, cases);
            let outcome = catch_unwind(AssertUnwindSafe(|| (parser.parse)(&bytes)));
            let used = allocator::end();
            let problem = match outcome {
                Err(_) => Some("it panicked".to_owned()),
                Ok(Err(said)) => Some(said),
                Ok(Ok(())) if used.largest > LARGEST => Some(format!("it asked for {} bytes at once", used.largest)),
                Ok(Ok(())) if used.held > HELD => Some(format!("it held {} bytes", used.held)),
                Ok(Ok(())) if used.in_all > IN_ALL => Some(format!("it allocated {} bytes in all", used.in_all)),
                Ok(Ok(())) => None,
            };
            if let Some(problem) = problem {
                let file = std::env::temp_dir().join(format!("regrow-fuzz-{}-{cases}", parser.name));
                std::fs::write(&file, &bytes).expect("the case is kept");
                failures.push(format!("{} (seed {seed}, case {cases}): {problem}; {}", parser.name, file.display()));
                if failures.len() > 20 {
                    break;
                }
            }
            cases += 1;
        }
        done.push(format!("{} {cases}", parser.name));
    }
    eprintln!("{}", done.join(", "));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn blake3_of(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Ends the process when no case begins for a long time: a parser that never returns can be ended in no other way.
fn watch() -> std::sync::Arc<AtomicU64> {
    let beat = std::sync::Arc::new(AtomicU64::new(0));
    let heard = std::sync::Arc::downgrade(&beat);
    std::thread::spawn(move || {
        let mut last = (0, Instant::now());
        while let Some(beat) = heard.upgrade() {
            let now = beat.load(Ordering::Relaxed);
            if now != last.0 {
                last = (now, Instant::now());
            } else if last.1.elapsed() > STUCK {
                let (parser, case) = allocator::current();
                eprintln!("{parser}, case {case}, does not end");
                std::process::abort();
            }
            drop(beat);
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    beat
}

#[test]
fn the_allocator_sees_what_is_asked_for() {
    // A vector of another test's may come in between, which only adds.
    let held = allocator::held();
    let block = std::hint::black_box(vec![1u8; 3 << 20]);
    assert!(allocator::held() + (1 << 20) > held, "{} bytes are held", block.len());
}
