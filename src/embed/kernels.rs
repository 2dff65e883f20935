//! Element-wise loops of the encoder, compiled for the widest vectors the machine has.
//!
//! Each kernel is one pass over whole matrices; rows are `width` long and row-major.

use pulp::{Simd, WithSimd};

/// The vector instructions of this machine, detected once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu(Level);

#[derive(Debug, Clone, Copy)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    V4(pulp::x86::V4),
    #[cfg(target_arch = "x86_64")]
    V3(pulp::x86::V3),
    Other(pulp::Arch),
}

impl Cpu {
    /// Looks at the machine.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V4::try_new() {
            return Self(Level::V4(simd));
        } else if let Some(simd) = pulp::x86::V3::try_new() {
            return Self(Level::V3(simd));
        }
        Self(Level::Other(pulp::Arch::new()))
    }

    fn run<Op: WithSimd>(self, op: Op) -> Op::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::V4(simd) => Simd::vectorize(simd, op),
            #[cfg(target_arch = "x86_64")]
            Level::V3(simd) => Simd::vectorize(simd, op),
            Level::Other(arch) => arch.dispatch(op),
        }
    }

    /// `row[..bias.len()] += bias` for every row of `width`.
    pub(super) fn add_bias(self, data: &mut [f32], width: usize, bias: &[f32]) {
        self.run(AddBias { data, width, bias });
    }

    /// `data = gelu(data + bias)`, the exact GELU, with rows as long as `bias`. Error below
    /// 1e-6, or 1e-6 of x where that is more.
    pub(super) fn bias_gelu(self, data: &mut [f32], bias: &[f32]) {
        self.run(BiasGelu { data, bias });
    }

    /// `y = layer_norm(y + bias + residual)`, with rows as long as `bias`.
    pub(super) fn residual_norm(self, y: &mut [f32], residual: &[f32], bias: &[f32], norm: &Norm) {
        self.run(ResidualNorm { y, residual, bias, norm });
    }

    /// Softmax of every row of `width`. Relative error about 1e-7.
    pub(super) fn softmax(self, data: &mut [f32], width: usize) {
        self.run(Softmax { data, width });
    }
}

/// Scale, shift and epsilon of a layer norm.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) epsilon: f32,
}

/// e^x for x in [-87, 88]: x = n ln 2 + r, then a polynomial in r fitted at Chebyshev nodes
/// (relative error 3e-9 before rounding).
#[inline(always)]
fn exp<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    const COEFFICIENTS: [f32; 6] = [8.375_971e-3, 4.166_62e-2, 0.166_664_05, 0.5, 1.0, 1.0];
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    let magic = s.splat_f32s(12_582_912.0);
    let x = s.max_f32s(x, s.splat_f32s(-87.0));
    let shifted = s.mul_add_e_f32s(x, s.splat_f32s(std::f32::consts::LOG2_E), magic);
    let n = s.sub_f32s(shifted, magic);
    // ln 2 in two parts: the first is exact when multiplied by a small integer.
    let r = s.mul_add_e_f32s(n, s.splat_f32s(-0.693_359_4), x);
    let r = s.mul_add_e_f32s(n, s.splat_f32s(2.121_944_4e-4), r);
    let mut p = s.splat_f32s(1.394_978_3e-3);
    for c in COEFFICIENTS {
        p = s.mul_add_e_f32s(p, r, s.splat_f32s(c));
    }
    let exponent = s.wrapping_dyn_shl_u32s(s.transmute_u32s_f32s(shifted), s.splat_u32s(23));
    s.transmute_f32s_u32s(s.add_u32s(s.transmute_u32s_f32s(p), exponent))
}

/// x/2 (1 + erf(x/√2)); erf as z P(z²)/Q(z²) on [-3.9, 3.9], fitted for the least absolute error
/// (2e-8 before rounding), and ±1 outside.
#[inline(always)]
fn gelu<S: Simd>(s: S, x: S::f32s) -> S::f32s {
    #[expect(clippy::approx_constant, reason = "the last one is fitted too; 2/√π rounds to the next float")]
    const P: [f32; 5] = [2.865_588_6e-4, 3.803_511_5e-3, 5.286_681e-2, 0.191_180_62, 1.128_379_1];
    const Q: [f32; 5] = [1.173_291_8e-3, 1.504_381_6e-2, 0.114_443_7, 0.502_761_7, 1.0];
    let z = s.mul_f32s(x, s.splat_f32s(std::f32::consts::FRAC_1_SQRT_2));
    let z = s.max_f32s(s.min_f32s(z, s.splat_f32s(3.9)), s.splat_f32s(-3.9));
    let u = s.mul_f32s(z, z);
    let (mut p, mut q) = (s.splat_f32s(2.054_821e-6), s.splat_f32s(3.822_853e-5));
    for (a, b) in P.into_iter().zip(Q) {
        p = s.mul_add_e_f32s(p, u, s.splat_f32s(a));
        q = s.mul_add_e_f32s(q, u, s.splat_f32s(b));
    }
    let erf = s.div_f32s(s.mul_f32s(z, p), q);
    let half = s.mul_f32s(x, s.splat_f32s(0.5));
    s.mul_add_e_f32s(half, erf, half)
}

struct AddBias<'a> {
    data: &'a mut [f32],
    width: usize,
    bias: &'a [f32],
}

impl WithSimd for AddBias<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (bias, bias_tail) = S::as_simd_f32s(self.bias);
        for row in self.data.chunks_exact_mut(self.width) {
            let (head, tail) = S::as_mut_simd_f32s(&mut row[..self.bias.len()]);
            for (x, b) in head.iter_mut().zip(bias) {
                *x = s.add_f32s(*x, *b);
            }
            for (x, b) in tail.iter_mut().zip(bias_tail) {
                *x += b;
            }
        }
    }
}

struct BiasGelu<'a> {
    data: &'a mut [f32],
    bias: &'a [f32],
}

impl WithSimd for BiasGelu<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (bias, bias_tail) = S::as_simd_f32s(self.bias);
        for row in self.data.chunks_exact_mut(self.bias.len()) {
            let (head, tail) = S::as_mut_simd_f32s(row);
            for (x, b) in head.iter_mut().zip(bias) {
                *x = gelu(s, s.add_f32s(*x, *b));
            }
            if !tail.is_empty() {
                let x = s.add_f32s(s.partial_load_f32s(tail), s.partial_load_f32s(bias_tail));
                s.partial_store_f32s(tail, gelu(s, x));
            }
        }
    }
}

struct ResidualNorm<'a> {
    y: &'a mut [f32],
    residual: &'a [f32],
    bias: &'a [f32],
    norm: &'a Norm,
}

impl WithSimd for ResidualNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let width = self.bias.len();
        let (bias, bias_tail) = S::as_simd_f32s(self.bias);
        let (gamma, gamma_tail) = S::as_simd_f32s(&self.norm.gamma);
        let (beta, beta_tail) = S::as_simd_f32s(&self.norm.beta);
        for (row, residual) in self.y.chunks_exact_mut(width).zip(self.residual.chunks_exact(width)) {
            let (head, tail) = S::as_mut_simd_f32s(row);
            let (other, other_tail) = S::as_simd_f32s(residual);
            let mut sum = s.splat_f32s(0.0);
            for ((x, o), b) in head.iter_mut().zip(other).zip(bias) {
                *x = s.add_f32s(s.add_f32s(*x, *b), *o);
                sum = s.add_f32s(sum, *x);
            }
            let mut total = s.reduce_sum_f32s(sum);
            for ((x, o), b) in tail.iter_mut().zip(other_tail).zip(bias_tail) {
                *x += b + o;
                total += *x;
            }
            let mean = total / width as f32;
            // The row is in the first-level cache: a second look at it is cheaper than the
            // cancellation of a one-pass variance.
            let means = s.splat_f32s(mean);
            let mut squares = s.splat_f32s(0.0);
            for x in head.iter() {
                let d = s.sub_f32s(*x, means);
                squares = s.mul_add_e_f32s(d, d, squares);
            }
            let mut variance = s.reduce_sum_f32s(squares);
            for x in tail.iter() {
                variance += (*x - mean) * (*x - mean);
            }
            let scale = 1.0 / (variance / width as f32 + self.norm.epsilon).sqrt();
            let scales = s.splat_f32s(scale);
            for ((x, g), b) in head.iter_mut().zip(gamma).zip(beta) {
                let normal = s.mul_f32s(s.sub_f32s(*x, means), scales);
                *x = s.mul_add_e_f32s(normal, *g, *b);
            }
            for ((x, g), b) in tail.iter_mut().zip(gamma_tail).zip(beta_tail) {
                *x = (*x - mean) * scale * g + b;
            }
        }
    }
}

struct Softmax<'a> {
    data: &'a mut [f32],
    width: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        for row in self.data.chunks_exact_mut(self.width) {
            let (head, tail) = S::as_mut_simd_f32s(row);
            let mut maxima = s.splat_f32s(f32::NEG_INFINITY);
            for x in head.iter() {
                maxima = s.max_f32s(maxima, *x);
            }
            let mut max = s.reduce_max_f32s(maxima);
            for x in tail.iter() {
                max = max.max(*x);
            }
            let maxima = s.splat_f32s(max);
            let mut sums = s.splat_f32s(0.0);
            for x in head.iter_mut() {
                *x = exp(s, s.sub_f32s(*x, maxima));
                sums = s.add_f32s(sums, *x);
            }
            let mut sum = s.reduce_sum_f32s(sums);
            if !tail.is_empty() {
                let x = s.partial_load_f32s(tail);
                s.partial_store_f32s(tail, exp(s, s.sub_f32s(x, maxima)));
                sum += tail.iter().sum::<f32>();
            }
            let scale = 1.0 / sum;
            let scales = s.splat_f32s(scale);
            for x in head.iter_mut() {
                *x = s.mul_f32s(*x, scales);
            }
            for x in tail.iter_mut() {
                *x *= scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// erf by its Taylor series in f64: exact to about 1e-12 for |x| ≤ 5.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    /// Every level this machine has, so that each is tested where it can run.
    fn levels() -> Vec<Cpu> {
        let mut levels = vec![Cpu(Level::Other(pulp::Arch::new()))];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(pulp::x86::V4::try_new().map(|s| Cpu(Level::V4(s))));
            levels.extend(pulp::x86::V3::try_new().map(|s| Cpu(Level::V3(s))));
        }
        levels
    }

    #[test]
    fn gelu_is_exact_to_a_millionth() {
        let xs: Vec<f32> = (-60_000..=60_000).map(|i| i as f32 / 10_000.0).collect();
        for cpu in levels() {
            let mut ys = xs.clone();
            let zero = vec![0.0; 3];
            let n = ys.len() / 3 * 3;
            cpu.bias_gelu(&mut ys[..n], &zero);
            for (x, y) in xs[..n].iter().zip(&ys) {
                let x = f64::from(*x);
                let expected = x / 2.0 * (1.0 + erf(x / std::f64::consts::SQRT_2));
                assert!((f64::from(*y) - expected).abs() < 1e-6 * x.abs().max(1.0), "{x}: {y} {expected}");
            }
            let mut far = [-100.0, -20.0, 20.0, 100.0];
            cpu.bias_gelu(&mut far, &[0.0; 4]);
            for (x, y) in [-100.0_f32, -20.0, 20.0, 100.0].iter().zip(far) {
                assert!((y - x.max(0.0)).abs() < 1e-6 * x.abs(), "{x}: {y}");
            }
        }
    }

    proptest! {
        #[test]
        fn softmax_matches_f64(rows in 1_usize..4, width in 1_usize..70, seed in any::<u32>(), scale in 0.1_f32..40.0) {
            let data: Vec<f32> = noise(rows * width, seed).iter().map(|x| x * scale).collect();
            for cpu in levels() {
                let mut out = data.clone();
                cpu.softmax(&mut out, width);
                for (row, got) in data.chunks(width).zip(out.chunks(width)) {
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let e: Vec<f64> = row.iter().map(|x| f64::from(x - max).exp()).collect();
                    let sum: f64 = e.iter().sum();
                    for (e, g) in e.iter().zip(got) {
                        prop_assert!((e / sum - f64::from(*g)).abs() < 1e-6 * (e / sum) + 1e-30);
                    }
                }
            }
        }

        #[test]
        fn residual_norm_matches_f64(rows in 1_usize..4, width in 2_usize..70, seed in any::<u32>()) {
            let (y, r) = (noise(rows * width, seed), noise(rows * width, seed ^ 1));
            let (bias, gamma, beta) = (noise(width, seed ^ 2), noise(width, seed ^ 3), noise(width, seed ^ 4));
            let norm = Norm { gamma, beta, epsilon: 1e-5 };
            for cpu in levels() {
                let mut out = y.clone();
                cpu.residual_norm(&mut out, &r, &bias, &norm);
                for (i, got) in out.chunks(width).enumerate() {
                    let row: Vec<f64> = (0..width)
                        .map(|j| f64::from(y[i * width + j]) + f64::from(r[i * width + j]) + f64::from(bias[j]))
                        .collect();
                    let mean = row.iter().sum::<f64>() / width as f64;
                    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                    for (j, x) in row.iter().enumerate() {
                        let e = (x - mean) / (var + 1e-5).sqrt() * f64::from(norm.gamma[j]) + f64::from(norm.beta[j]);
                        prop_assert!((e - f64::from(got[j])).abs() < 2e-4, "{e} {}", got[j]);
                    }
                }
            }
        }

        #[test]
        fn bias_reaches_only_its_columns(rows in 1_usize..4, width in 1_usize..70, share in 0.0_f64..1.0, seed in any::<u32>()) {
            let columns = ((width as f64 * share) as usize).max(1);
            let (data, bias) = (noise(rows * width, seed), noise(columns, seed ^ 9));
            for cpu in levels() {
                let mut out = data.clone();
                cpu.add_bias(&mut out, width, &bias);
                for (i, x) in out.iter().enumerate() {
                    let expected = data[i] + bias.get(i % width).copied().unwrap_or(0.0);
                    prop_assert_eq!(*x, expected);
                }
            }
        }
    }

    /// Numbers in [-1, 1) from a seed.
    fn noise(n: usize, seed: u32) -> Vec<f32> {
        let mut state = u64::from(seed) ^ 0x9e37_79b9_7f4a_7c15;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    }
}
