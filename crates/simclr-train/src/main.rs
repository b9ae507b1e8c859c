//! The program; everything it does is in the library.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's `mi_option_purge_delay`, for which its crate has no name; those it has are 14 before it and 16 behind.
const PURGE_DELAY: mi_option_t = 15;

fn main() -> std::process::ExitCode {
    keep_memory();
    simclr_train::run(std::env::args_os())
}

/// Keeps what one training step frees for the next one: memory that goes back to the system comes again as page faults, which
/// cost a step of ResNet-50 a seventh of its time. `MIMALLOC_PURGE_DELAY` in the environment still has the last word.
#[allow(unsafe_code, reason = "the allocator's settings have no safe form")]
fn keep_memory() {
    // SAFETY: setting an option is unsafe only beside other threads, and none has been started.
    unsafe { mi_option_set_default(PURGE_DELAY, -1) }
}
