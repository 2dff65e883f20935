//! Counts what is allocated, so that a few bytes that make a parser take gigabytes are noticed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};

struct Counting;

static HELD: AtomicI64 = AtomicI64::new(0);
static AT_BEGIN: AtomicI64 = AtomicI64::new(0);
static MOST: AtomicI64 = AtomicI64::new(0);
static LARGEST: AtomicU64 = AtomicU64::new(0);
static IN_ALL: AtomicU64 = AtomicU64::new(0);
static WATCHED: AtomicBool = AtomicBool::new(false);
static CASE: AtomicU64 = AtomicU64::new(0);
static PARSER: Mutex<&'static str> = Mutex::new("");

/// An allocation of this size may end the process: the case is named before.
const ALARM: usize = 4 << 30;

fn note(size: usize) {
    let now = HELD.fetch_add(size as i64, Relaxed) + size as i64;
    if WATCHED.load(Relaxed) {
        MOST.fetch_max(now, Relaxed);
        LARGEST.fetch_max(size as u64, Relaxed);
        IN_ALL.fetch_add(size as u64, Relaxed);
        if size >= ALARM {
            let name = PARSER.try_lock().map_or("?", |name| *name);
            drop(writeln!(std::io::stderr(), "{name}, case {}: asks for {size} bytes", CASE.load(Relaxed)));
        }
    }
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size() as i64, Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_sub(layout.size() as i64, Relaxed);
        note(size);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a case took.
pub struct Used {
    pub largest: u64,
    pub held: u64,
    pub in_all: u64,
}

pub fn begin(parser: &'static str, case: u64) {
    *PARSER.lock().unwrap() = parser;
    CASE.store(case, Relaxed);
    let now = HELD.load(Relaxed);
    AT_BEGIN.store(now, Relaxed);
    MOST.store(now, Relaxed);
    LARGEST.store(0, Relaxed);
    IN_ALL.store(0, Relaxed);
    WATCHED.store(true, Relaxed);
}

pub fn end() -> Used {
    WATCHED.store(false, Relaxed);
    Used {
        largest: LARGEST.load(Relaxed),
        held: (MOST.load(Relaxed) - AT_BEGIN.load(Relaxed)).max(0) as u64,
        in_all: IN_ALL.load(Relaxed),
    }
}

pub fn current() -> (&'static str, u64) {
    (*PARSER.lock().unwrap(), CASE.load(Relaxed))
}

/// Bytes that the process holds now.
pub fn held() -> u64 {
    HELD.load(Relaxed).max(0) as u64
}
