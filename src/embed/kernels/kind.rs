//! Number formats of a product's operands: 32-bit words of one, two or four numbers.

use super::isa::{Isa, Plain};
use super::to_bf16;

/// How two words are multiplied and added to an accumulator.
pub(super) trait Factor<I: Isa>: Copy {
    /// `acc + a · b`, where a word of `a` is the same in every lane.
    unsafe fn multiply_add(acc: I::F, a: I::W, b: I::W) -> I::F;
}

/// A factor whose numbers are stored one by one, as whole rows of integers are not.
pub(super) trait Kind<I: Isa>: Factor<I> {
    /// Numbers in a word.
    const DENSITY: usize;
    /// Writes `LANES` numbers as columns `column..` of the row that begins at `row`.
    unsafe fn put(row: *mut u32, column: usize, v: I::F);
    /// Writes one number as a column of the row that begins at `row`.
    unsafe fn put_one(row: *mut u32, column: usize, x: f32);
    /// Words of the product's inner index `k` for `LANES` columns from `column` of a row-major
    /// matrix with rows `stride` words apart, of which `rows` exist; those beyond are zeros.
    unsafe fn rows(matrix: *const u32, stride: usize, rows: usize, k: usize, column: usize) -> I::W;
}

/// 32-bit floats.
#[derive(Clone, Copy)]
pub(super) struct Float;

/// bfloat16 in 32-bit floats, for machines that do not multiply it: the same numbers, only slower.
#[derive(Clone, Copy)]
pub(super) struct Rounded;

/// bfloat16, two in a word.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Brain;

/// Unsigned times signed 8-bit integers, four in a word; accumulators hold integers.
#[derive(Clone, Copy)]
pub(super) struct Int8;

macro_rules! floats {
    ($kind:ty, $isa:ident, $round:expr, $round_one:expr) => {
        impl<$isa: Isa> Factor<$isa> for $kind {
            #[inline(always)]
            unsafe fn multiply_add(acc: I::F, a: I::W, b: I::W) -> I::F {
                // SAFETY: the caller's machine has these instructions.
                unsafe { I::fma(I::floats(a), I::floats(b), acc) }
            }
        }
        impl<$isa: Isa> Kind<$isa> for $kind {
            const DENSITY: usize = 1;
            #[inline(always)]
            unsafe fn put(row: *mut u32, column: usize, v: I::F) {
                // SAFETY: the caller's row has these columns.
                unsafe { I::store(row.add(column).cast(), $round(v)) }
            }
            #[inline(always)]
            unsafe fn put_one(row: *mut u32, column: usize, x: f32) {
                // SAFETY: the caller's row has this column.
                unsafe { *row.add(column) = $round_one(x).to_bits() }
            }
            #[inline(always)]
            unsafe fn rows(matrix: *const u32, stride: usize, rows: usize, k: usize, column: usize) -> I::W {
                // SAFETY: the caller's matrix has these rows and columns.
                unsafe {
                    match k < rows {
                        true => I::load_words(matrix.add(k * stride + column)),
                        false => I::splat_word(0),
                    }
                }
            }
        }
    };
}
floats!(Float, I, std::convert::identity, std::convert::identity::<f32>);
floats!(Rounded, I, I::to_bf16, to_bf16);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::isa::Avx512;
    use super::{Brain, Factor, Int8, Kind, to_bf16};

    impl Factor<Avx512> for Brain {
        #[inline(always)]
        unsafe fn multiply_add(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
            // SAFETY: the caller's machine has these instructions; the types are the same bits.
            unsafe {
                _mm512_dpbf16_ps(
                    acc,
                    std::mem::transmute::<__m512i, __m512bh>(a),
                    std::mem::transmute::<__m512i, __m512bh>(b),
                )
            }
        }
    }

    impl Kind<Avx512> for Brain {
        const DENSITY: usize = 2;
        #[inline(always)]
        unsafe fn put(row: *mut u32, column: usize, v: __m512) {
            // SAFETY: the caller's row has these columns.
            unsafe {
                let half = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(v));
                _mm256_storeu_si256(row.cast::<u16>().add(column).cast(), half);
            }
        }
        #[inline(always)]
        unsafe fn put_one(row: *mut u32, column: usize, x: f32) {
            // SAFETY: the caller's row has this column.
            unsafe { *row.cast::<u16>().add(column) = (to_bf16(x).to_bits() >> 16) as u16 }
        }
        #[inline(always)]
        unsafe fn rows(matrix: *const u32, stride: usize, rows: usize, k: usize, column: usize) -> __m512i {
            // SAFETY: the caller's matrix has these rows and columns.
            unsafe {
                let (even, odd) =
                    (row(matrix, stride, rows, 2 * k, column), row(matrix, stride, rows, 2 * k + 1, column));
                _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd))
            }
        }
    }

    /// Columns of a row of bfloat16, one in a word.
    #[inline(always)]
    unsafe fn row(matrix: *const u32, stride: usize, rows: usize, i: usize, column: usize) -> __m512i {
        // SAFETY: the caller's matrix has these rows and columns.
        unsafe {
            match i < rows {
                true => {
                    _mm512_cvtepu16_epi32(_mm256_loadu_si256(matrix.add(i * stride).cast::<u16>().add(column).cast()))
                }
                false => _mm512_setzero_si512(),
            }
        }
    }

    impl Factor<Avx512> for Int8 {
        #[inline(always)]
        unsafe fn multiply_add(acc: __m512, a: __m512i, b: __m512i) -> __m512 {
            // SAFETY: the caller's machine has these instructions.
            unsafe { _mm512_castsi512_ps(_mm512_dpbusd_epi32(_mm512_castps_si512(acc), a, b)) }
        }
    }
}

impl Factor<Plain> for Int8 {
    #[inline(always)]
    unsafe fn multiply_add(acc: [f32; 8], a: [u32; 8], b: [u32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| {
            let products = a[i].to_le_bytes().into_iter().zip(b[i].to_le_bytes());
            let sum: i32 = products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed())).sum();
            f32::from_bits(acc[i].to_bits().wrapping_add(sum.cast_unsigned()))
        })
    }
}

/// Words of a row of numbers in this format, as weights are stored.
pub(super) fn word(numbers: &[f32], density: usize, rounded: bool) -> u32 {
    let get = |i: usize| numbers.get(i).copied().unwrap_or(0.0);
    match density {
        1 if rounded => to_bf16(get(0)).to_bits(),
        1 => get(0).to_bits(),
        _ => (to_bf16(get(0)).to_bits() >> 16) | (to_bf16(get(1)).to_bits() & 0xffff_0000),
    }
}
