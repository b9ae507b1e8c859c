//! The program; everything it does is in the library.

mod memory;

fn main() -> std::process::ExitCode {
    memory::keep();
    simclr_train::run(std::env::args_os())
}
