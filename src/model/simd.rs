//! Loops over many numbers, compiled for wider instructions than the rest of the program may use.

/// A loop over many numbers. What it calls is to be inlined into `run`, and `run` is to be `#[inline(always)]`.
pub trait Loop {
    type Outcome;

    fn run(self) -> Self::Outcome;
}

/// Runs a loop as it is compiled for AVX2 and FMA, where the machine has both and the program is compiled for less. The
/// outcome has the same bits: neither may the compiler reorder sums nor fuse what is not written as `mul_add`, and that
/// is exact with and without FMA (and twenty times slower without).
pub fn vectorised<L: Loop>(work: L) -> L::Outcome {
    #[cfg(all(
        target_arch = "x86_64",
        not(all(target_feature = "avx2", target_feature = "fma"))
    ))]
    #[expect(
        unsafe_code,
        reason = "a call of what is compiled for other instructions; the block states why they are there"
    )]
    {
        #[target_feature(enable = "avx2,fma")]
        fn wide<L: Loop>(work: L) -> L::Outcome {
            work.run()
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has what `wide` is compiled for.
            return unsafe { wide(work) };
        }
    }
    work.run()
}
