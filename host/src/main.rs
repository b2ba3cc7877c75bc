//! The program `foldhost`: the command line, on an allocator that gives back what it does not need.

use std::process::ExitCode;

/// States, commits and batches are allocated on one thread and freed on another, in every size, for months.
/// jemalloc returns freed pages to the kernel, where others kept twice of what was in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// jemalloc's settings, read by it before anything is allocated: pages that nobody needs go back within a
/// second, by a thread of its own.
// A reference to an array is the thin pointer that jemalloc declares.
#[allow(unsafe_code, reason = "it is found by its name")]
#[unsafe(export_name = "malloc_conf")]
static SETTINGS: &[u8; 60] = b"background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    foldhost::cli::main()
}
