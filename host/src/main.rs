//! The program `foldhost`: the command line, on an allocator that stands long runs with many threads.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    foldhost::cli::main()
}
