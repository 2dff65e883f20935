//! Vector instructions under one set of names, so that each kernel is written once.
//!
//! All functions are `unsafe` for two reasons, which hold for every call in this module: the
//! machine must have the instructions of the type ([`super::Cpu`] looks before it calls), and
//! pointers must be valid for as many numbers as the function says.

/// A set of vector instructions on `LANES` numbers of 32 bits.
pub(super) trait Isa: Copy + 'static {
    /// Numbers in a vector.
    const LANES: usize;
    /// A vector of floats.
    type F: Copy;
    /// A vector of 32-bit words.
    type W: Copy;

    unsafe fn splat(x: f32) -> Self::F;
    /// Reads `LANES` floats.
    unsafe fn load(p: *const f32) -> Self::F;
    /// Writes `LANES` floats.
    unsafe fn store(p: *mut f32, v: Self::F);
    /// Reads `n < LANES` floats; the others are `rest`.
    unsafe fn load_first(p: *const f32, n: usize, rest: f32) -> Self::F;
    /// Lanes from `from` up to but not including `to` of `v`; the others are `rest`.
    unsafe fn within(v: Self::F, from: usize, to: usize, rest: f32) -> Self::F;
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The sum of all lanes.
    unsafe fn total(v: Self::F) -> f32;
    /// The largest lane.
    unsafe fn largest(v: Self::F) -> f32;
    /// The bits of the floats.
    unsafe fn words(v: Self::F) -> Self::W;
    /// The floats with these bits.
    unsafe fn floats(w: Self::W) -> Self::F;
    unsafe fn splat_word(x: u32) -> Self::W;
    /// Reads `LANES` words.
    unsafe fn load_words(p: *const u32) -> Self::W;
    /// Writes `LANES` words.
    unsafe fn store_words(p: *mut u32, w: Self::W);
    /// Reads `LANES` words, `stride` words apart.
    unsafe fn gather(p: *const u32, stride: usize) -> Self::W;
    unsafe fn add_words(a: Self::W, b: Self::W) -> Self::W;
    /// Words as signed integers → floats.
    unsafe fn from_integers(w: Self::W) -> Self::F;
    /// Writes `LANES` bytes: the nearest integers, of numbers from 0 to 255.
    unsafe fn store_bytes(p: *mut u8, v: Self::F);
    /// Shifts every word by 23 bits to the left: into the exponent of a float.
    unsafe fn to_exponent(w: Self::W) -> Self::W;
    /// Rounds to the nearest number with 8 bits of precision, ties to even: bfloat16 in a float.
    unsafe fn to_bf16(v: Self::F) -> Self::F;
}

/// Functions of an `impl`, each an expression of intrinsics.
#[cfg(target_arch = "x86_64")]
macro_rules! functions {
    ($($name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $e:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($a: $t),*) $(-> $r)? {
                // SAFETY: as the trait says.
                unsafe { $e }
            }
        )*
    };
}

/// AVX-512 F, BW, DQ and VL.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx512;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Avx2, Avx512, Isa};

    /// The lowest `n` bits.
    #[inline(always)]
    fn mask(n: usize) -> __mmask16 {
        ((1_u32 << n) - 1) as __mmask16
    }

    impl Isa for Avx512 {
        const LANES: usize = 16;
        type F = __m512;
        type W = __m512i;

        functions! {
            splat(x: f32) -> __m512 = _mm512_set1_ps(x);
            load(p: *const f32) -> __m512 = _mm512_loadu_ps(p);
            store(p: *mut f32, v: __m512) = _mm512_storeu_ps(p, v);
            load_first(p: *const f32, n: usize, rest: f32) -> __m512 =
                _mm512_mask_loadu_ps(_mm512_set1_ps(rest), mask(n), p);
            within(v: __m512, from: usize, to: usize, rest: f32) -> __m512 =
                _mm512_mask_blend_ps(mask(to) & !mask(from), _mm512_set1_ps(rest), v);
            add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            total(v: __m512) -> f32 = _mm512_reduce_add_ps(v);
            largest(v: __m512) -> f32 = _mm512_reduce_max_ps(v);
            words(v: __m512) -> __m512i = _mm512_castps_si512(v);
            floats(w: __m512i) -> __m512 = _mm512_castsi512_ps(w);
            splat_word(x: u32) -> __m512i = _mm512_set1_epi32(x.cast_signed());
            load_words(p: *const u32) -> __m512i = _mm512_loadu_si512(p.cast());
            store_words(p: *mut u32, w: __m512i) = _mm512_storeu_si512(p.cast(), w);
            add_words(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
            from_integers(w: __m512i) -> __m512 = _mm512_cvtepi32_ps(w);
            to_exponent(w: __m512i) -> __m512i = _mm512_slli_epi32::<23>(w);
        }

        #[inline(always)]
        unsafe fn gather(p: *const u32, stride: usize) -> __m512i {
            // SAFETY: as the trait says.
            unsafe {
                let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let at = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(stride as i32));
                _mm512_i32gather_epi32::<4>(at, p.cast())
            }
        }

        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m512) {
            // SAFETY: as the trait says.
            unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtusepi32_epi8(_mm512_cvtps_epu32(v))) }
        }

        #[inline(always)]
        unsafe fn to_bf16(v: __m512) -> __m512 {
            // SAFETY: as the trait says.
            unsafe {
                let bits = _mm512_castps_si512(v);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
                _mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(!0xffff)))
            }
        }
    }

    /// All ones in the lowest `n` lanes.
    #[inline(always)]
    unsafe fn first(n: usize) -> __m256i {
        // SAFETY: as the trait says.
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }

    impl Isa for Avx2 {
        const LANES: usize = 8;
        type F = __m256;
        type W = __m256i;

        functions! {
            splat(x: f32) -> __m256 = _mm256_set1_ps(x);
            load(p: *const f32) -> __m256 = _mm256_loadu_ps(p);
            store(p: *mut f32, v: __m256) = _mm256_storeu_ps(p, v);
            load_first(p: *const f32, n: usize, rest: f32) -> __m256 =
                _mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(p, first(n)), _mm256_castsi256_ps(first(n)));
            within(v: __m256, from: usize, to: usize, rest: f32) -> __m256 = _mm256_blendv_ps(
                _mm256_set1_ps(rest), v, _mm256_castsi256_ps(_mm256_andnot_si256(first(from), first(to))));
            add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
            min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            words(v: __m256) -> __m256i = _mm256_castps_si256(v);
            floats(w: __m256i) -> __m256 = _mm256_castsi256_ps(w);
            splat_word(x: u32) -> __m256i = _mm256_set1_epi32(x.cast_signed());
            load_words(p: *const u32) -> __m256i = _mm256_loadu_si256(p.cast());
            store_words(p: *mut u32, w: __m256i) = _mm256_storeu_si256(p.cast(), w);
            add_words(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
            from_integers(w: __m256i) -> __m256 = _mm256_cvtepi32_ps(w);
            to_exponent(w: __m256i) -> __m256i = _mm256_slli_epi32::<23>(w);
        }

        #[inline(always)]
        unsafe fn total(v: __m256) -> f32 {
            // SAFETY: as the trait says.
            unsafe {
                let half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_add_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
            }
        }

        #[inline(always)]
        unsafe fn largest(v: __m256) -> f32 {
            // SAFETY: as the trait says.
            unsafe {
                let half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
                let quarter = _mm_max_ps(half, _mm_movehl_ps(half, half));
                _mm_cvtss_f32(_mm_max_ss(quarter, _mm_shuffle_ps::<1>(quarter, quarter)))
            }
        }

        #[inline(always)]
        unsafe fn gather(p: *const u32, stride: usize) -> __m256i {
            // SAFETY: as the trait says.
            unsafe {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                let at = _mm256_mullo_epi32(lanes, _mm256_set1_epi32(stride as i32));
                _mm256_i32gather_epi32::<4>(p.cast(), at)
            }
        }

        #[inline(always)]
        unsafe fn store_bytes(p: *mut u8, v: __m256) {
            // SAFETY: as the trait says.
            unsafe {
                let words = _mm256_cvtps_epi32(v);
                let pairs = _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                _mm_storel_epi64(p.cast(), _mm_packus_epi16(pairs, pairs));
            }
        }

        #[inline(always)]
        unsafe fn to_bf16(v: __m256) -> __m256 {
            // SAFETY: as the trait says.
            unsafe {
                let bits = _mm256_castps_si256(v);
                let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
                let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
                _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(!0xffff)))
            }
        }
    }
}

/// AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// Arrays, for any machine; the compiler turns them into the vectors of its baseline.
#[derive(Clone, Copy)]
pub(super) struct Plain;

const PLAIN: usize = 8;

#[inline(always)]
fn both(a: [f32; PLAIN], b: [f32; PLAIN], f: impl Fn(f32, f32) -> f32) -> [f32; PLAIN] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Isa for Plain {
    const LANES: usize = PLAIN;
    type F = [f32; PLAIN];
    type W = [u32; PLAIN];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::F {
        [x; PLAIN]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::F {
        // SAFETY: as the trait says.
        unsafe { p.cast::<Self::F>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::F) {
        // SAFETY: as the trait says.
        unsafe { p.cast::<Self::F>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize, rest: f32) -> Self::F {
        // SAFETY: as the trait says.
        std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { rest })
    }
    #[inline(always)]
    unsafe fn within(v: Self::F, from: usize, to: usize, rest: f32) -> Self::F {
        std::array::from_fn(|i| if (from..to).contains(&i) { v[i] } else { rest })
    }
    #[inline(always)]
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F {
        both(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Without the instruction a fused product is a slow function of the C library.
        let fused = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
        std::array::from_fn(|i| if fused { a[i].mul_add(b[i], c[i]) } else { a[i] * b[i] + c[i] })
    }
    #[inline(always)]
    unsafe fn total(v: Self::F) -> f32 {
        v.iter().sum()
    }
    #[inline(always)]
    unsafe fn largest(v: Self::F) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn words(v: Self::F) -> Self::W {
        v.map(f32::to_bits)
    }
    #[inline(always)]
    unsafe fn floats(w: Self::W) -> Self::F {
        w.map(f32::from_bits)
    }
    #[inline(always)]
    unsafe fn splat_word(x: u32) -> Self::W {
        [x; PLAIN]
    }
    #[inline(always)]
    unsafe fn load_words(p: *const u32) -> Self::W {
        // SAFETY: as the trait says.
        unsafe { p.cast::<Self::W>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, w: Self::W) {
        // SAFETY: as the trait says.
        unsafe { p.cast::<Self::W>().write_unaligned(w) }
    }
    #[inline(always)]
    unsafe fn gather(p: *const u32, stride: usize) -> Self::W {
        // SAFETY: as the trait says.
        std::array::from_fn(|i| unsafe { *p.add(i * stride) })
    }
    #[inline(always)]
    unsafe fn add_words(a: Self::W, b: Self::W) -> Self::W {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    unsafe fn from_integers(w: Self::W) -> Self::F {
        w.map(|x| x.cast_signed() as f32)
    }
    #[inline(always)]
    unsafe fn to_exponent(w: Self::W) -> Self::W {
        w.map(|x| x << 23)
    }
    #[inline(always)]
    unsafe fn store_bytes(p: *mut u8, v: Self::F) {
        for (i, x) in v.into_iter().enumerate() {
            // SAFETY: as the trait says.
            unsafe { *p.add(i) = x.round_ties_even() as u8 }
        }
    }
    #[inline(always)]
    unsafe fn to_bf16(v: Self::F) -> Self::F {
        v.map(super::to_bf16)
    }
}
