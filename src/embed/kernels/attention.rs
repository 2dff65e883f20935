//! Attention of one text over its own tokens.
//!
//! Head by head: keys and values are packed like weights, then a few queries at a time go against
//! all keys, through softmax, and against all values. Only those few rows of scores are ever held.

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::kind::Brain;
use super::kind::{Float, Kind, Rounded};
use super::math;
use super::product::{by_rows, tile};
use super::rows::{Buffer, COLUMNS, Format, Rows};
use super::{Cpu, Job};

/// Most rows of a tile.
const TILE: usize = 12;

/// The heads of a layer. Rows are the queries of all heads, then keys, then values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads; each serves `queries / shared` query heads.
    pub(crate) shared: usize,
    /// Columns of a head.
    pub(crate) width: usize,
}

impl Heads {
    /// Columns of queries, keys and values together.
    pub(crate) fn columns(self) -> usize {
        (self.queries + 2 * self.shared) * self.width
    }
}

/// Which keys a query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All of its text.
    All,
    /// Itself and those before it.
    Before,
    /// Those at most so many tokens away.
    Near(usize),
}

impl Reach {
    /// The keys that query `i` of `length` sees.
    pub(crate) fn of(self, i: usize, length: usize) -> (usize, usize) {
        match self {
            Self::All => (0, length),
            Self::Before => (0, i + 1),
            Self::Near(n) => (i.saturating_sub(n), (i + n + 1).min(length)),
        }
    }
}

/// What a text's attention needs besides its rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attention<'a> {
    /// The layer's heads.
    pub(crate) heads: Heads,
    /// What queries see.
    pub(crate) reach: Reach,
    /// Added to scores by head and distance: `[queries][2 · most + 1]` with key − query + most.
    pub(crate) distances: Option<&'a [f32]>,
}

/// Memory that attention works in; grows to the longest text.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Buffer,
    values: Buffer,
    scores: Buffer,
    weights: Buffer,
    distances: Buffer,
}

impl Cpu {
    /// Attention of the text that is rows `start..start + length` of `from`, into the same rows of
    /// `out`. Queries must be scaled already.
    ///
    /// # Panics
    /// When shapes or formats do not fit together.
    pub(crate) fn attention(
        self,
        attention: Attention<'_>,
        from: &Rows,
        (start, length): (usize, usize),
        scratch: &mut Scratch,
        out: &mut Rows,
    ) {
        let heads = attention.heads;
        assert!(heads.shared > 0 && heads.queries.is_multiple_of(heads.shared) && from.width() == heads.columns());
        assert!(out.width() == heads.queries * heads.width && out.count() == from.count());
        assert!(start + length <= from.count() && length > 0);
        assert!(heads.width.is_multiple_of(from.format().density()), "a head begins at a word");
        if let Some(table) = attention.distances {
            let row = table.len() / heads.queries;
            assert!(table.len().is_multiple_of(heads.queries) && row % 2 == 1 && length <= row / 2 + 1);
        }
        let columns = length.next_multiple_of(COLUMNS);
        let words = heads.width.next_multiple_of(COLUMNS);
        scratch.keys.grow(columns * words);
        scratch.values.grow(columns * words);
        scratch.scores.grow(TILE * columns);
        scratch.weights.grow(TILE * columns);
        let job = Of { attention, from, start, length, scratch, out };
        // SAFETY: the level and formats are ones this machine has; shapes were checked above, and
        // rows behind the last may be read.
        unsafe {
            match (job.from.format(), job.out.format()) {
                (Format::F32, Format::F32) => self.run(Whole(job, Float, Float)),
                (Format::Rounded, Format::Rounded) => self.run(Whole(job, Rounded, Rounded)),
                (Format::Rounded, Format::F32) => self.run(Whole(job, Rounded, Float)),
                #[cfg(target_arch = "x86_64")]
                (Format::Bf16, Format::Bf16) => super::on_brain(Whole(job, Brain, Brain)),
                #[cfg(target_arch = "x86_64")]
                (Format::Bf16, Format::F32) => super::on_brain(Whole(job, Brain, Float)),
                formats => panic!("attention has no formats {formats:?}"),
            }
        }
    }
}

struct Of<'a> {
    attention: Attention<'a>,
    from: &'a Rows,
    start: usize,
    length: usize,
    scratch: &'a mut Scratch,
    out: &'a mut Rows,
}

/// A job with the formats of what comes in and of what goes out.
struct Whole<'a, K, O>(Of<'a>, K, O);

impl<I: Isa, K: Kind<I>, O: Kind<I>> Job<I> for Whole<'_, K, O> {
    #[inline(always)]
    unsafe fn run(self) {
        let Of { attention: Attention { heads, reach, distances }, from, start, length, scratch, out } = self.0;
        let stride = from.stride();
        // SAFETY: `Cpu::attention` checked the shapes and made the room.
        unsafe {
            let first = from.pointer().add(start * stride);
            let words = heads.width / K::DENSITY;
            let columns = 2 * I::LANES;
            let across = length.next_multiple_of(COLUMNS);
            let ends = Ends {
                keys: scratch.keys.words().as_ptr(),
                values: scratch.values.words().as_ptr(),
                scores: scratch.scores.floats_mut().as_mut_ptr(),
                weights: scratch.weights.words_mut().as_mut_ptr(),
                across,
                length,
                width: heads.width,
                stride,
                out_stride: out.stride(),
                reach,
            };
            for shared in 0..heads.shared {
                let keys = first.add((heads.queries + shared) * words);
                let packed = scratch.keys.words_mut().as_mut_ptr();
                for token in (0..length).step_by(I::LANES) {
                    let panel = packed.add(token / columns * columns * words + token % columns);
                    for step in 0..words {
                        I::store_words(panel.add(step * columns), I::gather(keys.add(token * stride + step), stride));
                    }
                }
                let values = first.add((heads.queries + heads.shared + shared) * words);
                let packed = scratch.values.words_mut().as_mut_ptr();
                let steps = length.div_ceil(K::DENSITY);
                for column in (0..heads.width).step_by(I::LANES) {
                    let panel = packed.add(column / columns * columns * steps + column % columns);
                    for k in 0..steps {
                        I::store_words(panel.add(k * columns), K::rows(values, stride, length, k, column));
                    }
                }
                let group = heads.queries / heads.shared;
                for head in shared * group..(shared + 1) * group {
                    let mut most = 0;
                    let mut by_distance = std::ptr::null();
                    if let Some(table) = distances {
                        // A copy with room on both sides, for vectors that reach over the edge.
                        let row = table.len() / heads.queries;
                        most = row / 2 + COLUMNS;
                        scratch.distances.grow(row + 4 * COLUMNS);
                        let copy = scratch.distances.floats_mut();
                        copy[COLUMNS..COLUMNS + row].copy_from_slice(&table[head * row..(head + 1) * row]);
                        by_distance = copy.as_ptr();
                    }
                    let mut query = 0;
                    while query < length {
                        let from = first.add(query * stride + head * words);
                        let to = out.pointer_mut().add((start + query) * ends.out_stride);
                        let distances =
                            if by_distance.is_null() { by_distance } else { by_distance.add(most).sub(query) };
                        query += by_rows!(
                            I,
                            length - query,
                            queries::<I, K, O>,
                            &ends,
                            query,
                            from,
                            distances,
                            to,
                            head * heads.width
                        );
                    }
                }
            }
        }
    }
}

/// Where a head's packed keys and values are, and the rest that does not change from tile to tile.
struct Ends {
    keys: *const u32,
    values: *const u32,
    scores: *mut f32,
    weights: *mut u32,
    across: usize,
    length: usize,
    width: usize,
    stride: usize,
    out_stride: usize,
    reach: Reach,
}

/// `R` queries of a head from `query` on; those behind the text's end are computed and dropped.
#[inline(always)]
unsafe fn queries<I: Isa, K: Kind<I>, O: Kind<I>, const R: usize>(
    e: &Ends,
    query: usize,
    from: *const u32,
    distances: *const f32,
    to: *mut u32,
    column: usize,
) {
    let columns = 2 * I::LANES;
    let steps = e.width / K::DENSITY;
    let reach = |i: usize| e.reach.of((query + i).min(e.length - 1), e.length);
    let (low, high) = (reach(0).0 / columns * columns, reach(R - 1).1);
    // SAFETY: packed keys and values, scores and weights have room for the text's tokens.
    unsafe {
        let mut most = [I::splat(f32::NEG_INFINITY); R];
        let mut key = low;
        while key < high {
            let sums = tile::<I, K, R>(steps, from, e.stride, e.keys.add(key * steps), columns);
            for i in 0..R {
                let (least, end) = reach(i);
                for j in 0..2 {
                    let at = key + j * I::LANES;
                    let mut v = sums[i][j];
                    if !distances.is_null() {
                        v = I::add(v, I::load(distances.add(at).sub(i)));
                    }
                    if at < least || at + I::LANES > end {
                        let inside = |k: usize| k.saturating_sub(at).min(I::LANES);
                        v = I::within(v, inside(least), inside(end), f32::NEG_INFINITY);
                    }
                    most[i] = I::max(most[i], v);
                    I::store(e.scores.add(i * e.across + at), v);
                }
            }
            key += columns;
        }
        let mut inverse = [0.0; R];
        for i in 0..R {
            let largest = I::splat(I::largest(most[i]));
            let mut sum = I::splat(0.0);
            let mut key = low;
            while key < high {
                for j in 0..2 {
                    let at = key + j * I::LANES;
                    let v = math::exp::<I>(I::sub(I::load(e.scores.add(i * e.across + at)), largest));
                    sum = I::add(sum, v);
                    K::put(e.weights.add(i * (e.across / K::DENSITY)), at, v);
                }
                key += columns;
            }
            inverse[i] = 1.0 / I::total(sum);
        }
        let (first, last) = (low / K::DENSITY, high.div_ceil(K::DENSITY));
        let all = e.length.div_ceil(K::DENSITY);
        let mut part = 0;
        while part < e.width {
            let values = e.values.add(part * all + first * columns);
            let sums = tile::<I, K, R>(last - first, e.weights.add(first), e.across / K::DENSITY, values, columns);
            for i in 0..R.min(e.length - query) {
                let row = to.add(i * e.out_stride);
                for j in 0..2 {
                    let at = part + j * I::LANES;
                    let v = I::mul(sums[i][j], I::splat(inverse[i]));
                    if at + I::LANES <= e.width {
                        O::put(row, column + at, v);
                    } else {
                        let mut numbers = [0.0_f32; 16];
                        I::store(numbers.as_mut_ptr(), v);
                        for (n, x) in numbers.into_iter().enumerate().take(e.width.saturating_sub(at)) {
                            O::put_one(row, column + at + n, x);
                        }
                    }
                }
            }
            part += columns;
        }
    }
}
