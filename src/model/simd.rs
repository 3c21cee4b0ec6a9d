//! Loops compiled for wider vector instructions than the rest of the program.

/// A loop over many numbers. `run` must be `#[inline(always)]`, and so must the functions that it calls.
pub trait Loop {
    type Outcome;

    fn run(self) -> Self::Outcome;
}

/// Runs a loop compiled for AVX2 and FMA, if the machine has both and the program is compiled for less. The result has the
/// same bits: the compiler may not reorder sums or fuse what is not written as `mul_add`, which is exact with and without
/// FMA (and twenty times slower without).
pub fn vectorised<L: Loop>(work: L) -> L::Outcome {
    #[cfg(all(
        target_arch = "x86_64",
        not(all(target_feature = "avx2", target_feature = "fma"))
    ))]
    #[expect(
        unsafe_code,
        reason = "calls code for instructions that are checked for at run time"
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
