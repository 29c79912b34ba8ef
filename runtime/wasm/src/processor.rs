//! What compiled code needs of the processor beyond what wasmtime sees to.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The processor time that this thread has used.
pub(crate) fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.try_into().unwrap_or(0),
        time.tv_nsec.try_into().unwrap_or(0),
    )
}

/// Clears the upper halves of the vector registers. Code that leaves something there makes each of the legacy
/// SSE instructions that compiled functions contain wait for it: their loops were measured up to fifty times slower.
#[cfg(target_arch = "x86_64")]
pub(crate) fn clear_upper_halves() {
    #[target_feature(enable = "avx")]
    fn clear() {
        std::arch::x86_64::_mm256_zeroupper();
    }
    if std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX, which is all that `clear` asks for. The compiler knows that the
        // instruction changes those registers.
        unsafe { clear() }
    }
}

/// Other processors have no such halves.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn clear_upper_halves() {}
