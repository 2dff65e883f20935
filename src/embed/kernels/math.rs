//! Functions of a vector of numbers.

use super::isa::Isa;

/// e^x for x in [-87, 88]; x = n ln 2 + r, then a polynomial in r fitted at Chebyshev nodes
/// (relative error 3e-9 before rounding). Smaller x give e^-87, which is 0 beside any sum of it.
#[inline(always)]
pub(super) unsafe fn exp<I: Isa>(x: I::F) -> I::F {
    const COEFFICIENTS: [f32; 6] = [8.375_971e-3, 4.166_62e-2, 0.166_664_05, 0.5, 1.0, 1.0];
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
        let magic = I::splat(12_582_912.0);
        let x = I::min(I::max(x, I::splat(-87.0)), I::splat(88.0));
        let shifted = I::fma(x, I::splat(std::f32::consts::LOG2_E), magic);
        let n = I::sub(shifted, magic);
        // ln 2 in two parts: the first is exact when multiplied by a small integer.
        let r = I::fma(n, I::splat(-0.693_359_4), x);
        let r = I::fma(n, I::splat(2.121_944_4e-4), r);
        let mut p = I::splat(1.394_978_3e-3);
        for c in COEFFICIENTS {
            p = I::fma(p, r, I::splat(c));
        }
        I::floats(I::add_words(I::words(p), I::to_exponent(I::words(shifted))))
    }
}

/// x/2 (1 + erf(x/√2)); erf as z P(z²)/Q(z²) on [-3.9, 3.9], fitted for the least absolute error
/// (2e-8 before rounding), and ±1 outside.
#[inline(always)]
pub(super) unsafe fn gelu<I: Isa>(x: I::F) -> I::F {
    #[expect(clippy::approx_constant, reason = "the last one is fitted too; 2/√π rounds to the next float")]
    const P: [f32; 5] = [2.865_588_6e-4, 3.803_511_5e-3, 5.286_681e-2, 0.191_180_62, 1.128_379_1];
    const Q: [f32; 5] = [1.173_291_8e-3, 1.504_381_6e-2, 0.114_443_7, 0.502_761_7, 1.0];
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        let z = I::mul(x, I::splat(std::f32::consts::FRAC_1_SQRT_2));
        let z = I::max(I::min(z, I::splat(3.9)), I::splat(-3.9));
        let u = I::mul(z, z);
        let (mut p, mut q) = (I::splat(2.054_821e-6), I::splat(3.822_853e-5));
        for (a, b) in P.into_iter().zip(Q) {
            p = I::fma(p, u, I::splat(a));
            q = I::fma(q, u, I::splat(b));
        }
        let erf = I::div(I::mul(z, p), q);
        let half = I::mul(x, I::splat(0.5));
        I::fma(half, erf, half)
    }
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) unsafe fn silu<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller's machine has these instructions.
    unsafe { I::div(x, I::add(I::splat(1.0), exp::<I>(I::sub(I::splat(0.0), x)))) }
}

/// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), which is x / (1 + e^-2u) for tanh's argument u.
#[inline(always)]
pub(super) unsafe fn gelu_tanh<I: Isa>(x: I::F) -> I::F {
    // SAFETY: the caller's machine has these instructions.
    unsafe {
        let cubic = I::fma(I::mul(x, x), I::splat(0.044_715), I::splat(1.0));
        // -2 √(2/π)
        let exponent = I::mul(I::mul(x, cubic), I::splat(-1.595_769));
        I::div(x, I::add(I::splat(1.0), exp::<I>(exponent)))
    }
}
