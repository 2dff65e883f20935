//! Products of activations with packed weights.
//!
//! Weights are packed once into panels of two vectors of columns. The microkernel multiplies a
//! few rows with a panel: each word of a row is broadcast against the panel's two vectors, and all
//! sums stay in registers. What is done with the sums follows at once ([`Out`]).

#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512};
use super::isa::{Isa, Plain};
#[cfg(target_arch = "x86_64")]
use super::kind::Brain;
use super::kind::{Factor, Float, Int8, Kind, Rounded, word};
use super::math;
use super::rows::{Buffer, COLUMNS, Format, Rows};
use super::{Cpu, Job, Level};

/// Vectors of columns in a panel.
const VECTORS: usize = 2;

/// A weight matrix, packed for one kind of machine, and its bias.
#[derive(Debug)]
pub(crate) struct Linear {
    format: Format,
    level: Level,
    outputs: usize,
    inputs: usize,
    gated: bool,
    /// Columns of a panel.
    panel: usize,
    /// Words of the inner dimension.
    steps: usize,
    /// `[panels][steps][panel]`; for the portable level `[inputs][panels · panel]`.
    words: Buffer,
    bias: Vec<f32>,
    /// Of each column, in 8 bits: w ≈ scale · q; and the sum of q.
    scales: Vec<f32>,
    sums: Vec<f32>,
}

/// What is applied to a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    None,
    /// The exact GELU.
    Gelu,
    Silu,
    /// GELU by tanh, as Gemma has it.
    GeluTanh,
}

/// Where a product goes. The bias is added first.
#[derive(Debug)]
pub(crate) enum Out<'a> {
    /// Through the activation, into other rows. With gated weights, `activation(gate) · up`.
    Put(&'a mut Rows, Activation),
    /// Added to rows of 32-bit floats.
    Add(&'a mut Rows),
}

impl Linear {
    /// Packs `weights`, `[outputs][inputs]` row-major, as stored in model files.
    ///
    /// # Panics
    /// When the slices are not as long as the shape says.
    pub(crate) fn new(
        cpu: Cpu,
        format: Format,
        weights: &[f32],
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
    ) -> Self {
        Self::pack(cpu, format, &|j| &weights[j * inputs..(j + 1) * inputs], outputs, inputs, bias, false)
    }

    /// Packs two matrices of a gated layer so that both numbers of a pair come out together.
    ///
    /// # Panics
    /// When the slices are not as long as the shape says.
    pub(crate) fn gated(cpu: Cpu, format: Format, gate: &[f32], up: &[f32], outputs: usize, inputs: usize) -> Self {
        let lanes = cpu.lanes(format);
        let zeros = vec![0.0; inputs];
        let column = |j: usize| {
            let (group, place) = (j / (2 * lanes), j % (2 * lanes));
            let (matrix, i) = if place < lanes { (gate, place) } else { (up, place - lanes) };
            match group * lanes + i {
                i if i < outputs => &matrix[i * inputs..(i + 1) * inputs],
                _ => &zeros[..],
            }
        };
        Self::pack(cpu, format, &column, outputs.next_multiple_of(lanes) * 2, inputs, None, true)
    }

    fn pack<'a>(
        cpu: Cpu,
        format: Format,
        column: &dyn Fn(usize) -> &'a [f32],
        outputs: usize,
        inputs: usize,
        bias: Option<&[f32]>,
        gated: bool,
    ) -> Self {
        let panel = cpu.lanes(format) * VECTORS;
        let level = cpu.level(format);
        let density = format.density();
        let steps = inputs.div_ceil(density);
        let all = outputs.next_multiple_of(COLUMNS);
        let mut words = Buffer::zeroed(all * steps);
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        if format == Format::Int8 {
            (scales, sums) = (vec![0.0; all], vec![0.0; all]);
        }
        let out = words.words_mut();
        for j in 0..outputs {
            let numbers = column(j);
            let quantised = (format == Format::Int8).then(|| {
                let scale = numbers.iter().fold(0.0_f32, |a, x| a.max(x.abs())).max(f32::MIN_POSITIVE) / 127.0;
                let q: Vec<i8> = numbers.iter().map(|x| (x / scale).round_ties_even() as i8).collect();
                scales[j] = scale;
                sums[j] = q.iter().map(|q| f32::from(*q)).sum();
                q
            });
            for step in 0..steps {
                let here = step * density..inputs.min((step + 1) * density);
                let value = match &quantised {
                    Some(q) => here.enumerate().fold(0, |w, (t, i)| w | u32::from(q[i].cast_unsigned()) << (8 * t)),
                    None => word(&numbers[here], density, format == Format::Rounded),
                };
                let at = match level {
                    Level::Portable if density == 1 => step * all + j,
                    _ => (j / panel * steps + step) * panel + j % panel,
                };
                out[at] = value;
            }
        }
        let mut padded = bias.map_or_else(Vec::new, <[f32]>::to_vec);
        padded.resize(all, 0.0);
        Self { format, level, outputs, inputs, gated, panel, steps, words, bias: padded, scales, sums }
    }

    /// Columns of the result.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Numbers in the matrix.
    pub(crate) fn size(&self) -> usize {
        self.outputs * self.inputs
    }
}

impl Cpu {
    /// `out ← a · weightsᵀ + bias`.
    ///
    /// # Panics
    /// When the shapes or formats do not fit together.
    pub(crate) fn product(self, a: &Rows, weights: &Linear, out: Out<'_>) {
        assert_eq!((a.format(), a.width()), (weights.format, weights.inputs), "operands of one format and depth");
        assert_eq!(self.level(weights.format), weights.level, "weights packed for this machine");
        let (rows, activation, add) = match out {
            Out::Put(rows, activation) => (rows, activation, false),
            Out::Add(rows) => (rows, Activation::None, true),
        };
        assert_eq!(rows.count(), a.count(), "as many rows as the operand");
        let width = if weights.gated { weights.outputs / 2 } else { weights.outputs };
        assert!(rows.width() <= width && width <= rows.stride() * rows.format().density(), "columns of the product");
        let (format, stride) = (rows.format(), rows.stride());
        let finish = Finish { weights, a, out: rows.pointer_mut(), stride, activation };
        // SAFETY: the level is one this machine has. Operands have `SLACK` rows more than they
        // count, rows and bias are filled up to whole panels, and `finish` writes counted rows only.
        unsafe {
            match (add, format) {
                (true, Format::F32) => self.multiply(Sum(finish)),
                (false, Format::F32) => self.multiply(Put(finish, Float)),
                (false, Format::Rounded) => self.multiply(Put(finish, Rounded)),
                #[cfg(target_arch = "x86_64")]
                (false, Format::Bf16) => self.multiply_to_bf16(Put(finish, Brain)),
                _ => panic!("products are not stored in this format"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn multiply_to_bf16(self, end: Put<'_, Brain>) {
        // SAFETY: the format is one this machine has.
        unsafe {
            match end.0.weights.format {
                Format::Bf16 => super::on_brain(Product(end, Brain)),
                Format::Int8 => super::on_brain(Product(end, Int8)),
                format => panic!("products of {format:?} are not stored as bfloat16"),
            }
        }
    }

    unsafe fn multiply<E: EndAnywhere>(self, end: E) {
        let format = end.finish().weights.format;
        // SAFETY: the level and format are ones this machine has.
        unsafe {
            match (self.level(format), format) {
                (Level::Portable, Format::F32 | Format::Rounded) => portable(end),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, Format::F32) => super::on_avx512(Product(end, Float)),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, Format::Rounded) => super::on_avx512(Product(end, Rounded)),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, Format::Bf16) => super::on_brain(Product(end, Brain)),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx512, Format::Int8) => super::on_vnni(Product(end, Int8)),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, Format::F32) => super::on_avx2(Product(end, Float)),
                #[cfg(target_arch = "x86_64")]
                (Level::Avx2, Format::Rounded) => super::on_avx2(Product(end, Rounded)),
                (_, Format::Int8) => Job::<Plain>::run(Product(end, Int8)),
                _ => panic!("this machine has no such product"),
            }
        }
    }
}

/// The sums of a row and a panel on their way to memory.
#[derive(Clone, Copy)]
struct Finish<'a> {
    weights: &'a Linear,
    a: &'a Rows,
    out: *mut u32,
    stride: usize,
    activation: Activation,
}

impl Finish<'_> {
    /// Turns sums into numbers: scales of integers, then the bias.
    #[inline(always)]
    unsafe fn numbers<I: Isa>(&self, row: usize, column: usize, sums: I::F) -> I::F {
        let w = self.weights;
        // SAFETY: scales, sums and bias are filled up to whole panels.
        unsafe {
            let bias = I::load(w.bias.as_ptr().add(column));
            if w.format != Format::Int8 {
                return I::add(sums, bias);
            }
            // Σ (s q + o)(t r) = s t Σ q r + o t Σ r, with row's s and o and column's t.
            let scale = I::load(w.scales.as_ptr().add(column));
            let total = I::load(w.sums.as_ptr().add(column));
            let whole = I::fma(
                I::from_integers(I::words(sums)),
                I::splat(self.a.scales[row]),
                I::mul(total, I::splat(self.a.offsets[row])),
            );
            I::fma(whole, scale, bias)
        }
    }

    #[inline(always)]
    unsafe fn activate<I: Isa>(&self, v: I::F) -> I::F {
        // SAFETY: the caller's machine has these instructions.
        unsafe {
            match self.activation {
                Activation::None => v,
                Activation::Gelu => math::gelu::<I>(v),
                Activation::Silu => math::silu::<I>(v),
                Activation::GeluTanh => math::gelu_tanh::<I>(v),
            }
        }
    }
}

/// How sums end: generic over instructions, so that it is compiled into each kernel.
trait Ends: Copy {
    fn finish(&self) -> &Finish<'_>;
}

trait End<I: Isa>: Ends {
    /// Takes the sums of a row and the panel that begins at `column`.
    unsafe fn take(&self, row: usize, column: usize, sums: [I::F; VECTORS]);
}

/// An end for every set of instructions.
#[cfg(target_arch = "x86_64")]
trait EndAnywhere: End<Avx512> + End<Avx2> + End<Plain> {}
#[cfg(target_arch = "x86_64")]
impl<E: End<Avx512> + End<Avx2> + End<Plain>> EndAnywhere for E {}
#[cfg(not(target_arch = "x86_64"))]
trait EndAnywhere: End<Plain> {}
#[cfg(not(target_arch = "x86_64"))]
impl<E: End<Plain>> EndAnywhere for E {}

/// Adds to 32-bit floats.
#[derive(Clone, Copy)]
struct Sum<'a>(Finish<'a>);

impl Ends for Sum<'_> {
    fn finish(&self) -> &Finish<'_> {
        &self.0
    }
}

impl<I: Isa> End<I> for Sum<'_> {
    #[inline(always)]
    unsafe fn take(&self, row: usize, column: usize, sums: [I::F; VECTORS]) {
        // SAFETY: the row is counted and filled up to whole panels.
        unsafe {
            for j in 0..VECTORS {
                let column = column + j * I::LANES;
                let at = self.0.out.add(row * self.0.stride + column).cast::<f32>();
                I::store(at, I::add(I::load(at), self.0.numbers::<I>(row, column, sums[j])));
            }
        }
    }
}

/// Stores as another operand.
#[derive(Clone, Copy)]
struct Put<'a, K>(Finish<'a>, K);

impl<K: Copy> Ends for Put<'_, K> {
    fn finish(&self) -> &Finish<'_> {
        &self.0
    }
}

impl<I: Isa, K: Kind<I>> End<I> for Put<'_, K> {
    #[inline(always)]
    unsafe fn take(&self, row: usize, column: usize, sums: [I::F; VECTORS]) {
        // SAFETY: the row is counted and filled up to whole panels.
        unsafe {
            let base = self.0.out.add(row * self.0.stride);
            let first = self.0.numbers::<I>(row, column, sums[0]);
            let second = self.0.numbers::<I>(row, column + I::LANES, sums[1]);
            if self.0.weights.gated {
                K::put(base, column / VECTORS, I::mul(self.0.activate::<I>(first), second));
            } else {
                K::put(base, column, self.0.activate::<I>(first));
                K::put(base, column + I::LANES, self.0.activate::<I>(second));
            }
        }
    }
}

/// Sums of `R` rows and a panel: words of the rows, `stride` apart, against vectors of the panel.
#[inline(always)]
pub(super) unsafe fn tile<I: Isa, K: Factor<I>, const R: usize>(
    steps: usize,
    a: *const u32,
    stride: usize,
    panel: *const u32,
    panel_stride: usize,
) -> [[I::F; VECTORS]; R] {
    // SAFETY: the caller's operands have these rows, words and vectors.
    unsafe {
        let mut sums = [[I::splat(0.0); VECTORS]; R];
        let (mut a, mut panel) = (a, panel);
        for _ in 0..steps {
            // Without this barrier the compiler hoists loads over steps, and sums leave the registers.
            #[cfg(not(miri))]
            std::arch::asm!("", options(nostack, preserves_flags));
            let b = [I::load_words(panel), I::load_words(panel.add(I::LANES))];
            for i in 0..R {
                // Wrapping, because a check for overflow here would cost half of the speed.
                let x = I::splat_word(*a.wrapping_add(i.wrapping_mul(stride)));
                for j in 0..VECTORS {
                    sums[i][j] = K::multiply_add(sums[i][j], x, b[j]);
                }
            }
            (a, panel) = (a.wrapping_add(1), panel.wrapping_add(panel_stride));
        }
        sums
    }
}

/// Calls `$f::<R>` for so many rows as are left, the machine's most, two thirds or a third of it.
macro_rules! by_rows {
    ($isa:ty, $left:expr, $f:ident :: <$($g:ty),*>, $($argument:expr),*) => {
        match (<$isa as Isa>::LANES, $left) {
            (16, 9..) => { $f::<$($g,)* 12>($($argument),*); 12 }
            (16, 5..) => { $f::<$($g,)* 8>($($argument),*); 8 }
            (16, _) => { $f::<$($g,)* 4>($($argument),*); 4 }
            (_, 4..) => { $f::<$($g,)* 6>($($argument),*); 6 }
            _ => { $f::<$($g,)* 3>($($argument),*); 3 }
        }
    };
}
pub(super) use by_rows;

/// A whole product.
struct Product<E, K>(E, K);

#[inline(always)]
unsafe fn block<I: Isa, K: Factor<I>, E: End<I>, const R: usize>(end: &E, panel: usize, row: usize, stride: usize) {
    let Finish { weights, a, .. } = *end.finish();
    // SAFETY: operands have `SLACK` rows more than they count; only counted ones are taken.
    unsafe {
        let columns = VECTORS * I::LANES;
        let packed = weights.words.words().as_ptr().add(panel * weights.steps * columns);
        let sums = tile::<I, K, R>(weights.steps, a.pointer().add(row * stride), stride, packed, columns);
        for i in 0..R {
            if row + i < a.count() {
                end.take(row + i, panel * columns, sums[i]);
            }
        }
    }
}

impl<I: Isa, K: Factor<I>, E: End<I>> Job<I> for Product<E, K> {
    #[inline(always)]
    unsafe fn run(self) {
        let Finish { weights, a, .. } = *self.0.finish();
        let panels = weights.outputs.div_ceil(VECTORS * I::LANES);
        for panel in 0..panels {
            let mut row = 0;
            while row < a.count() {
                let left = a.count() - row;
                // SAFETY: as `Cpu::product` says.
                row += unsafe { by_rows!(I, left, block::<I, K, E>, &self.0, panel, row, a.stride()) };
            }
        }
    }
}

/// The same over candle's matrix product, where there is no microkernel for the machine.
unsafe fn portable<E: End<Plain>>(end: E) {
    let Finish { weights: w, a, .. } = *end.finish();
    let all = w.bias.len();
    let mut sums = Buffer::zeroed(a.count() * all);
    // SAFETY: `sums` is rows × all, the operand rows × inputs, the weights inputs × all.
    unsafe {
        gemm::gemm(
            a.count(),
            all,
            w.inputs,
            sums.floats_mut().as_mut_ptr(),
            1,
            all as isize,
            false,
            a.pointer().cast::<f32>(),
            1,
            a.stride() as isize,
            w.words.floats().as_ptr(),
            1,
            all as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
        let sums = sums.floats().as_ptr();
        for row in 0..a.count() {
            for column in (0..w.outputs).step_by(w.panel) {
                let at = sums.add(row * all + column);
                end.take(row, column, [Plain::load(at), Plain::load(at.add(Plain::LANES))]);
            }
        }
    }
}
