//! The program; everything it does is in the library.

fn main() -> std::process::ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    keep_memory();
    simclr_train::run(std::env::args_os())
}

/// Keeps what one training step frees for the next one: memory that goes back to the system comes again as page faults, which
/// cost a step of ResNet-50 a seventh of its time. All of it lies in one heap, where neighbours that are free become one piece:
/// maps come in a dozen sizes, and allocators that keep each size apart hold half as much again.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's settings have no safe form")]
fn keep_memory() {
    // An unknown setting is refused and changes nothing: then the program is slower, not wrong.
    for (setting, value) in [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: setting an option is unsafe only beside other threads, and none has been started.
        unsafe { libc::mallopt(setting, value) };
    }
}
