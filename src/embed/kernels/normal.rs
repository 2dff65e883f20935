//! Passes over whole rows: normalisation, and conversion into a product's operand.

use super::isa::Isa;
#[cfg(target_arch = "x86_64")]
use super::kind::Brain;
use super::kind::{Float, Kind, Rounded};
use super::rows::{Format, Rows};
use super::{Cpu, Job};

/// Scale, shift and epsilon of a normalisation.
#[derive(Debug, Clone)]
pub(crate) struct Norm {
    /// Multiplied with each column.
    pub(crate) gamma: Vec<f32>,
    /// Added to each column; without it nothing is.
    pub(crate) beta: Option<Vec<f32>>,
    /// Added to the variance, or the mean square.
    pub(crate) epsilon: f32,
    /// Whether the mean is subtracted: layer norm, or else RMS norm.
    pub(crate) centred: bool,
}

impl Cpu {
    /// `x ← norm(x)`, and the same as an operand where `out` is given. With `keep`, `x` stays as
    /// it was and only the operand is written.
    ///
    /// # Panics
    /// When `x` is not of 32-bit floats or the shapes differ.
    pub(crate) fn normalise(self, x: &mut Rows, norm: &Norm, keep: bool, out: Option<&mut Rows>) {
        assert!(x.format() == Format::F32 && norm.gamma.len() == x.width());
        assert!(norm.beta.as_ref().is_none_or(|b| b.len() == x.width()));
        let pass = Pass {
            width: x.width(),
            count: x.count(),
            from: x.pointer_mut().cast(),
            stride: x.stride(),
            norm: Some(norm),
            keep,
        };
        self.pass(pass, out);
    }

    /// Rows of 32-bit floats as an operand.
    ///
    /// # Panics
    /// When `x` is not of 32-bit floats or the shapes differ.
    pub(crate) fn convert(self, x: &Rows, out: &mut Rows) {
        assert!(x.format() == Format::F32);
        let pass = Pass {
            width: x.width(),
            count: x.count(),
            from: x.pointer().cast_mut().cast(),
            stride: x.stride(),
            norm: None,
            keep: true,
        };
        self.pass(pass, Some(out));
    }

    fn pass(self, pass: Pass<'_>, out: Option<&mut Rows>) {
        if let Some(out) = &out {
            assert!((out.width(), out.count()) == (pass.width, pass.count), "as many rows and columns");
        }
        // SAFETY: the level is one this machine has; rows are filled up to whole vectors. Without
        // a norm nothing is written to `from`.
        unsafe {
            match out {
                None => self.run(Normalise(pass, None::<Target<'_, Float>>)),
                Some(out) => match out.format() {
                    Format::F32 => self.run(Normalise(pass, Some(Target(out, Float)))),
                    Format::Rounded => self.run(Normalise(pass, Some(Target(out, Rounded)))),
                    #[cfg(target_arch = "x86_64")]
                    Format::Bf16 => super::on_brain(Normalise(pass, Some(Target(out, Brain)))),
                    #[cfg(not(target_arch = "x86_64"))]
                    Format::Bf16 => panic!("this machine has no such format"),
                    Format::Int8 => self.run(Quantise(pass, out)),
                },
            }
        }
    }
}

/// Rows to go over.
struct Pass<'a> {
    width: usize,
    count: usize,
    from: *mut f32,
    stride: usize,
    norm: Option<&'a Norm>,
    keep: bool,
}

struct Target<'a, K>(&'a mut Rows, K);

/// `LANES` columns from `column`; those beyond `n` are zero.
#[inline(always)]
unsafe fn take<I: Isa>(p: *const f32, n: usize) -> I::F {
    // SAFETY: the caller's row has these columns.
    unsafe { if n >= I::LANES { I::load(p) } else { I::load_first(p, n, 0.0) } }
}

impl Pass<'_> {
    /// What turns `x` into its normalised value: `(x - shift) * scale`.
    #[inline(always)]
    unsafe fn scales<I: Isa>(&self, row: *const f32) -> (f32, f32) {
        let Some(norm) = self.norm else { return (0.0, 1.0) };
        let width = self.width as f32;
        // SAFETY: the row has these columns.
        unsafe {
            let mut mean = 0.0;
            if norm.centred {
                let mut sum = I::splat(0.0);
                for c in (0..self.width).step_by(I::LANES) {
                    sum = I::add(sum, take::<I>(row.add(c), self.width - c));
                }
                mean = I::total(sum) / width;
            }
            // The row is in the first-level cache: a second look at it is cheaper than the
            // cancellation of a one-pass variance.
            let means = I::splat(mean);
            let mut squares = I::splat(0.0);
            for c in (0..self.width).step_by(I::LANES) {
                let n = I::LANES.min(self.width - c);
                let d = I::within(I::sub(take::<I>(row.add(c), n), means), 0, n, 0.0);
                squares = I::fma(d, d, squares);
            }
            (mean, 1.0 / (I::total(squares) / width + norm.epsilon).sqrt())
        }
    }

    /// Columns of a row, normalised; those beyond `n` are zero.
    #[inline(always)]
    unsafe fn normal<I: Isa>(&self, row: *const f32, c: usize, n: usize, (mean, scale): (f32, f32)) -> I::F {
        // SAFETY: the row, gamma and beta have these columns.
        unsafe {
            let x = take::<I>(row.add(c), n);
            let Some(norm) = self.norm else { return x };
            let x = I::mul(I::sub(x, I::splat(mean)), I::splat(scale));
            let gamma = take::<I>(norm.gamma.as_ptr().add(c), n);
            match &norm.beta {
                Some(beta) => I::fma(x, gamma, take::<I>(beta.as_ptr().add(c), n)),
                None => I::mul(x, gamma),
            }
        }
    }
}

struct Normalise<'a, K>(Pass<'a>, Option<Target<'a, K>>);

impl<I: Isa, K: Kind<I>> Job<I> for Normalise<'_, K> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(pass, mut out) = self;
        for i in 0..pass.count {
            // SAFETY: both matrices have this row, filled up to whole vectors.
            unsafe {
                let row = pass.from.add(i * pass.stride);
                let scales = pass.scales::<I>(row);
                for c in (0..pass.width).step_by(I::LANES) {
                    let v = pass.normal::<I>(row, c, pass.width - c, scales);
                    if !pass.keep {
                        I::store(row.add(c), v);
                    }
                    if let Some(Target(rows, _)) = &mut out {
                        let stride = rows.stride();
                        K::put(rows.pointer_mut().add(i * stride), c, v);
                    }
                }
            }
        }
    }
}

struct Quantise<'a>(Pass<'a>, &'a mut Rows);

impl<I: Isa> Job<I> for Quantise<'_> {
    #[inline(always)]
    unsafe fn run(self) {
        let Self(pass, out) = self;
        let stride = out.stride();
        let mut values = vec![0.0_f32; pass.width.next_multiple_of(I::LANES)];
        for i in 0..pass.count {
            let (mut low, mut high);
            // SAFETY: both matrices have this row, filled up to whole vectors.
            unsafe {
                let row = pass.from.add(i * pass.stride);
                let scales = pass.scales::<I>(row);
                (low, high) = (I::splat(0.0), I::splat(0.0));
                for c in (0..pass.width).step_by(I::LANES) {
                    let v = pass.normal::<I>(row, c, pass.width - c, scales);
                    I::store(values.as_mut_ptr().add(c), v);
                    if !pass.keep {
                        I::store(row.add(c), v);
                    }
                    high = I::max(high, v);
                    low = I::max(low, I::sub(I::splat(0.0), v));
                }
                let (least, most) = (-I::largest(low), I::largest(high));
                let scale = ((most - least) / 255.0).max(f32::MIN_POSITIVE);
                (out.scales[i], out.offsets[i]) = (scale, least);
                let bytes = out.pointer_mut().add(i * stride).cast::<u8>();
                let (shift, inverse) = (I::splat(least), I::splat(1.0 / scale));
                for c in (0..pass.width).step_by(I::LANES) {
                    let v = I::mul(I::sub(I::load(values.as_ptr().add(c)), shift), inverse);
                    // Columns that fill up the row meet weights of zero.
                    I::store_bytes(bytes.add(c), v);
                }
            }
        }
    }
}
