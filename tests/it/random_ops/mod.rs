//! Random operations on a corpus and a repository whose stores fail on purpose, next to a model of what must hold.
//!
//! Worlds follow one another, each a few dozen operations long and each from a seed of its own. After every operation,
//! whatever went wrong with it:
//!
//! - every snapshot that was ever committed and not forgotten is there, and its inventory names the model's documents
//!   with the model's texts; nothing else is there;
//! - verify finds exactly what was damaged on purpose;
//! - a restore that says it succeeded made a collection with the model's texts; with stores that work it succeeds
//!   whenever the corpus is as the snapshot has it.
//!
//! ```console
//! $ cargo test --release --test it random_ops                                        # as the suite does it
//! $ REGROW_STEPS=1000000 cargo test --release --test it random_ops -- --nocapture    # the long run
//! $ REGROW_SEED=123 REGROW_STEPS=100 cargo test --release --test it random_ops       # one world again
//! ```

mod check;
mod rng;
mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use world::{Operation, Weather, World};

pub use rng::Rng;

/// Operations in one world.
const WORLD: u64 = 60;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

#[test]
fn nothing_is_lost_whatever_goes_wrong() {
    let steps = number("REGROW_STEPS", 10_000);
    let seed = number("REGROW_SEED", 20_261_125);
    let worlds = steps.div_ceil(WORLD);
    let next = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..std::thread::available_parallelism().map_or(2, |n| n.get()).min(8))
        .map(|_| {
            let (next, failed) = (next.clone(), failed.clone());
            std::thread::spawn(move || {
                let mut seen = world::Seen::default();
                loop {
                    let world = next.fetch_add(1, Ordering::Relaxed);
                    if world >= worlds || failed.load(Ordering::Relaxed) {
                        return seen;
                    }
                    let seed = seed + world;
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
                    let steps = WORLD.min(steps - world * WORLD);
                    let run = std::panic::AssertUnwindSafe(|| runtime.unwrap().block_on(live(seed, steps, &mut seen)));
                    if let Err(panic) = std::panic::catch_unwind(run) {
                        failed.store(true, Ordering::Relaxed);
                        eprintln!("again with REGROW_SEED={seed} REGROW_STEPS={WORLD}");
                        std::panic::resume_unwind(panic);
                    }
                    if world % 100 == 99 {
                        eprintln!("{} worlds of {worlds}", world + 1);
                    }
                }
            })
        })
        .collect();
    let mut seen = world::Seen::default();
    for thread in threads {
        match thread.join() {
            Ok(one) => seen.add(&one),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    eprintln!("{seen:?}");
    if steps >= 1000 {
        seen.assert_something_of_everything();
    }
}

async fn live(seed: u64, steps: u64, seen: &mut world::Seen) {
    let mut world = World::new(seed);
    for step in 0..steps {
        let operation = Operation::choose(&mut world.rng);
        let weather = world.weather();
        world.now = format!("seed {seed}, step {step}: {operation:?} in {weather:?}");
        world.run(operation, weather, seen).await;
        world.calm();
        check::everything(&mut world).await;
    }
    world.finish(seen).await;
}

/// A snapshot and a restore of a changed corpus, over stores that die after the first operation, after the second, and
/// so on until nothing dies any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_operation_loses_nothing() {
    let mut kills = [0, 0];
    for (which, kill) in [Weather::Kill, Weather::KillCorpus].into_iter().enumerate() {
        for n in 1.. {
            let mut seen = world::Seen::default();
            let mut world = World::new(1000 * which as u64 + n);
            for _ in 0..4 {
                world.run(Operation::Edit, Weather::Calm, &mut seen).await;
            }
            world.run(Operation::Snapshot, Weather::Calm, &mut seen).await;
            world.run(Operation::Restore, Weather::Calm, &mut seen).await;
            world.run(Operation::Edit, Weather::Calm, &mut seen).await;
            world.now = format!("{:?}", kill(n));
            world.set(kill(n));
            world.run(Operation::Snapshot, kill(n), &mut seen).await;
            // A failed snapshot has been looked at over stores that work: they die again.
            let died = world.is_dead() || seen.uncommitted() > 0;
            if died {
                world.set(kill(n % 13 + 1));
            }
            world.run(Operation::Restore, kill(n), &mut seen).await;
            world.calm();
            check::everything(&mut world).await;
            world.finish(&mut seen).await;
            if !died {
                break;
            }
            kills[which] += 1;
        }
    }
    assert!(kills.iter().all(|n| *n > 3), "{kills:?}");
}
