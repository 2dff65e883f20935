//! The most that a core multiplies: a loop over registers.

use std::time::Instant;

use super::isa::{Isa, Plain};
use super::kind::{Factor, Float, Int8};
use super::rows::Format;
use super::{Cpu, Job, Level};

/// Accumulators, as many as the microkernel has.
const SUMS: usize = 24;
/// Steps of a measurement: some milliseconds.
const STEPS: usize = 1 << 19;

/// `STEPS` products of registers.
struct Registers<K>(K);

impl<I: Isa, K: Factor<I>> Job<I> for Registers<K> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the machine has the instructions, and only `last` is written.
        unsafe {
            let (a, b) = (I::splat_word(0x3f80_3f80), I::splat_word(0x3c00_3c00));
            let mut sums = [I::splat(0.0); SUMS];
            for _ in 0..STEPS {
                #[cfg(not(miri))]
                std::arch::asm!("", options(nostack, preserves_flags));
                for i in 0..SUMS {
                    sums[i] = K::multiply_add(sums[i], a, b);
                }
            }
            let mut last = [0.0_f32; 16];
            for sum in sums {
                I::store(last.as_mut_ptr(), sum);
                std::hint::black_box(&last);
            }
        }
    }
}

impl Cpu {
    /// Multiplications and additions per second of one core in this format, the best of a few tries.
    pub(crate) fn peak(self, format: Format) -> f64 {
        // Two for each number of a word and lane.
        let each = 2 * format.density() * self.lanes(format) * SUMS * STEPS;
        let once = || {
            let start = Instant::now();
            // SAFETY: the level and format are ones this machine has.
            unsafe {
                match (self.level(format), format) {
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, Format::F32 | Format::Rounded) => super::on_avx512(Registers(Float)),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, Format::Bf16) => super::on_brain(Registers(super::kind::Brain)),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx512, Format::Int8) => super::on_vnni(Registers(Int8)),
                    #[cfg(target_arch = "x86_64")]
                    (Level::Avx2, _) => super::on_avx2(Registers(Float)),
                    (_, Format::Int8) => Job::<Plain>::run(Registers(Int8)),
                    _ => Job::<Plain>::run(Registers(Float)),
                }
            }
            each as f64 / start.elapsed().as_secs_f64()
        };
        (0..20).map(|_| once()).fold(0.0, f64::max)
    }
}
