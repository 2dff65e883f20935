//! The CPU's inner loops, and the only unsafe code of this crate.
//!
//! What is offered is safe: sizes are checked at the door, and instructions are used only after
//! the machine was asked for them. Inside, three conventions hold for every kernel:
//!
//! - Matrices ([`Rows`]) are filled up to 32 columns, and have 32 rows behind the last that may be
//!   read. Whole vectors are therefore read and written without a look at the edge.
//! - A kernel is a [`Job`], generic over the instructions ([`isa::Isa`]) and inlined as a whole
//!   into one function per set of instructions, which is the only place where they are enabled.
//! - A number's format is a [`kind::Kind`]: how it is stored, and how words are multiplied.

#![allow(unsafe_code)]
#![allow(clippy::needless_range_loop, reason = "registers are arrays, and loops over them are unrolled")]

mod attention;
mod isa;
mod kind;
mod math;
mod normal;
mod peak;
mod product;
mod rows;

#[cfg(test)]
mod tests;

pub(crate) use attention::{Attention, Heads, Reach, Scratch};
pub(crate) use normal::Norm;
pub(crate) use product::{Activation, Linear, Out};
pub(crate) use rows::{Format, Rows};

use isa::{Isa, Plain};

/// The instructions that kernels use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What the compiler may use anywhere, and candle's matrix products.
    Portable,
}

/// What this machine can do. Values are made by looking at it, never from hope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cpu {
    level: Level,
    /// Products of bfloat16.
    brain: bool,
    /// Products of 8-bit integers.
    vnni: bool,
}

impl Cpu {
    /// The best of this machine.
    pub(crate) fn detect() -> Self {
        Self::all()[0]
    }

    /// Everything this machine can do, best first: each is another path through the kernels.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
            {
                let vnni = is_x86_feature_detected!("avx512vnni");
                if vnni && is_x86_feature_detected!("avx512bf16") {
                    all.push(Self { level: Level::Avx512, brain: true, vnni });
                }
                if vnni {
                    all.push(Self { level: Level::Avx512, brain: false, vnni });
                }
                all.push(Self { level: Level::Avx512, brain: false, vnni: false });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self { level: Level::Avx2, brain: false, vnni: false });
            }
        }
        all.push(Self { level: Level::Portable, brain: false, vnni: false });
        all
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match (self.level, self.brain, self.vnni) {
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, true, _) => "avx512-bf16",
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, _, true) => "avx512-vnni",
            #[cfg(target_arch = "x86_64")]
            (Level::Avx512, ..) => "avx512",
            #[cfg(target_arch = "x86_64")]
            (Level::Avx2, ..) => "avx2",
            (Level::Portable, ..) => "portable",
        }
    }

    /// How bfloat16 is stored here. The numbers are the same in both formats.
    pub(crate) fn bf16(self) -> Format {
        if self.brain { Format::Bf16 } else { Format::Rounded }
    }

    /// The instructions that multiply this format.
    fn level(self, format: Format) -> Level {
        match format {
            Format::Int8 if !self.vnni => Level::Portable,
            _ => self.level,
        }
    }

    /// Numbers in a vector of accumulators for this format.
    fn lanes(self, format: Format) -> usize {
        match self.level(format) {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => isa::Avx512::LANES,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => isa::Avx2::LANES,
            Level::Portable => Plain::LANES,
        }
    }

    /// Runs a job that needs no format's own instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe fn run<J: Job<isa::Avx512> + Job<isa::Avx2> + Job<Plain>>(self, job: J) {
        // SAFETY: the level is one this machine has.
        unsafe {
            match self.level {
                Level::Avx512 => on_avx512(job),
                Level::Avx2 => on_avx2(job),
                Level::Portable => Job::<Plain>::run(job),
            }
        }
    }

    /// Runs a job that needs no format's own instructions.
    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn run<J: Job<Plain>>(self, job: J) {
        // SAFETY: any machine can.
        unsafe { job.run() }
    }
}

/// A kernel for a set of instructions.
trait Job<I: Isa> {
    /// # Safety
    /// The machine must have the instructions, and what the job points at must be there.
    unsafe fn run(self);
}

/// The one place per set of instructions where they are enabled; the job is inlined here.
macro_rules! enable {
    ($name:ident, $isa:ty, $features:literal) => {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = $features)]
        unsafe fn $name<J: Job<$isa>>(job: J) {
            // SAFETY: the caller looked at the machine.
            unsafe { job.run() }
        }
    };
}
enable!(on_avx2, isa::Avx2, "avx2,fma");
enable!(on_avx512, isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma");
enable!(on_vnni, isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma");
enable!(on_brain, isa::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma");

/// The nearest number with 8 bits of precision, ties to even.
#[inline(always)]
fn to_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000)
}
