//! The allocator of a plugin: small blocks that were given back are kept by size and given out again at once.
//!
//! Decoding an event or a state takes a block or two and gives them back a moment later, for each event anew.
//! A general allocator finds a place among all sizes each time, and joins neighbours each time; that was a
//! third of the time spent in a plugin that does little else.
//!
//! Called by everything that allocates in the sandbox. Invariants: a block goes back to the pool whose size
//! it has, which its layout tells; what is kept back is at most [`KEPT_BYTES_MAX`], the rest belongs to the
//! standard allocator again, so that memory taken for one size can serve another.

#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ptr;

/// Sizes of blocks differ by this, in bytes.
const STEP: usize = 16;

/// How many sizes are kept: up to 1 KiB.
const SIZES: usize = 64;

/// What every block of the pools is aligned to: all that the standard allocator does without extra work.
const ALIGN: usize = 8;

/// Most bytes that wait to be given out again.
const KEPT_BYTES_MAX: usize = 256 * 1024;

#[cfg(target_arch = "wasm32")]
#[global_allocator]
static ALLOCATOR: Pools = Pools::new();

/// Blocks that were given back, by size; the first word of each points to the next.
struct Pools {
    first: [Cell<*mut u8>; SIZES],
    kept_bytes: Cell<usize>,
}

// SAFETY: a plugin has one thread: the target has no others.
#[cfg(target_arch = "wasm32")]
unsafe impl Sync for Pools {}

impl Pools {
    const fn new() -> Self {
        Self {
            first: [const { Cell::new(ptr::null_mut()) }; SIZES],
            kept_bytes: Cell::new(0),
        }
    }
}

/// The pool of a layout; none for large blocks and strictly aligned ones.
fn pool_of(layout: Layout) -> Option<usize> {
    let pool = layout.size().wrapping_sub(1) / STEP;
    (pool < SIZES && layout.align() <= ALIGN).then_some(pool)
}

/// Bytes of a pool's blocks.
const fn block_bytes(pool: usize) -> usize {
    (pool + 1) * STEP
}

fn block(pool: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the size far from the largest.
    unsafe { Layout::from_size_align_unchecked(block_bytes(pool), ALIGN) }
}

// SAFETY: a block is either held by who asked for it, or kept in one pool, or the standard allocator's. Its
// size is that of its pool each time it is asked for and given back, which is at least what was asked for.
unsafe impl GlobalAlloc for Pools {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(pool) = pool_of(layout) else {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        };
        let first = self.first[pool].get();
        if first.is_null() {
            // SAFETY: the layout has a size.
            return unsafe { System.alloc(block(pool)) };
        }
        // SAFETY: a kept block begins with the next one's address, written by `dealloc`, and is aligned for it.
        self.first[pool].set(unsafe { first.cast::<*mut u8>().read() });
        self.kept_bytes
            .set(self.kept_bytes.get() - block_bytes(pool));
        first
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pool) = pool_of(layout) else {
            // SAFETY: such a layout was asked of the standard allocator.
            return unsafe { System.dealloc(pointer, layout) };
        };
        let kept_bytes = self.kept_bytes.get() + block_bytes(pool);
        if kept_bytes > KEPT_BYTES_MAX {
            // SAFETY: it came from the standard allocator with this layout.
            return unsafe { System.dealloc(pointer, block(pool)) };
        }
        self.kept_bytes.set(kept_bytes);
        // SAFETY: nobody holds the block any more, and it has room for an address, aligned.
        unsafe { pointer.cast::<*mut u8>().write(self.first[pool].get()) };
        self.first[pool].set(pointer);
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if pool_of(layout).is_none() {
            // Fresh memory of the sandbox is zero: the standard allocator knows which is.
            // SAFETY: as the caller promises.
            return unsafe { System.alloc_zeroed(layout) };
        }
        // SAFETY: as the caller promises; the block has at least the layout's size.
        unsafe {
            let pointer = self.alloc(layout);
            if !pointer.is_null() {
                pointer.write_bytes(0, layout.size());
            }
            pointer
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size fits the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (pool_of(layout), pool_of(wanted)) {
            (None, None) => {
                // SAFETY: such a layout was asked of the standard allocator.
                unsafe { System.realloc(pointer, layout, size) }
            }
            (before, after) if before == after => pointer,
            _ => {
                // SAFETY: both blocks have room for what is copied, and are not the same.
                unsafe {
                    let moved = self.alloc(wanted);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(pointer, moved, layout.size().min(size));
                        self.dealloc(pointer, layout);
                    }
                    moved
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    /// A block of a known size, filled.
    fn filled(pools: &Pools, size: usize, with: u8) -> *mut u8 {
        // SAFETY: the size is not zero, and the block has it.
        unsafe {
            let pointer = pools.alloc(layout(size));
            pointer.write_bytes(with, size);
            pointer
        }
    }

    fn bytes<'a>(pointer: *mut u8, size: usize) -> &'a [u8] {
        // SAFETY: the tests pass blocks that they hold.
        unsafe { std::slice::from_raw_parts(pointer, size) }
    }

    #[test]
    fn a_block_that_was_given_back_is_given_out_again_for_its_size_only() {
        let pools = Pools::new();
        let (one, other) = (filled(&pools, 17, 1), filled(&pools, 32, 2));
        // SAFETY: both came from these pools with these layouts.
        unsafe {
            pools.dealloc(one, layout(17));
            pools.dealloc(other, layout(32));
        }
        assert_eq!(pools.kept_bytes.get(), 64);
        assert_eq!(filled(&pools, 20, 3), other, "the last one first");
        assert_ne!(filled(&pools, 16, 4), one, "another size");
        assert_eq!(filled(&pools, 31, 5), one);
        assert_eq!(pools.kept_bytes.get(), 0);
    }

    #[test]
    fn a_block_keeps_its_content_when_it_grows_and_shrinks() {
        let pools = Pools::new();
        let mut pointer = filled(&pools, 10, 7);
        let mut size = 10;
        for next in [16, 17, 900, 1024, 1025, 70_000, 2000, 1000, 3] {
            // SAFETY: the block came from these pools and has this layout.
            pointer = unsafe { pools.realloc(pointer, layout(size), next) };
            assert_eq!(bytes(pointer, 3), [7; 3], "from {size} to {next}");
            size = next;
        }
    }

    #[test]
    fn what_is_asked_for_as_zeros_is_zero_also_when_it_was_used_before() {
        let pools = Pools::new();
        let used = filled(&pools, 100, 0xff);
        // SAFETY: as above.
        let again = unsafe {
            pools.dealloc(used, layout(100));
            pools.alloc_zeroed(layout(97))
        };
        assert_eq!(again, used);
        assert_eq!(bytes(again, 97), [0; 97]);
    }

    #[test]
    fn what_is_kept_back_is_bounded() {
        let pools = Pools::new();
        let blocks: Vec<_> = (0..1000).map(|_| filled(&pools, 1024, 1)).collect();
        for block in blocks {
            // SAFETY: as above.
            unsafe { pools.dealloc(block, layout(1024)) };
        }
        assert_eq!(pools.kept_bytes.get(), KEPT_BYTES_MAX);
    }
}
