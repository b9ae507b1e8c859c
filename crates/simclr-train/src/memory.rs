//! How the program keeps its memory: what every training step allocates and frees again is gigabytes.

#![allow(unsafe_code, reason = "allocators have no safe form")]

use std::alloc::{GlobalAlloc, Layout, System};

#[global_allocator]
static ALLOCATOR: Aligned = Aligned;

/// The system's allocator, with large blocks that begin where a cache line does: a vector of AVX-512 is a line, and one that
/// crosses two costs two accesses. The lines are found here, because what the system cuts off in front of an aligned block
/// keeps its neighbours from becoming one piece again.
struct Aligned;

/// Bytes of a cache line, and of the smallest block that begins with one.
const LINE: usize = 64;
const LARGE: usize = 4096;

/// What is asked of the system for a large block: a line more, so that one begins in it behind the address of the whole.
fn whole(layout: Layout) -> Option<Layout> {
    let is_large = layout.size() >= LARGE && layout.align() <= LINE;
    let layout = Layout::from_size_align(layout.size().checked_add(LINE)?, align_of::<*mut u8>());
    layout.ok().filter(|_| is_large)
}

/// The first line in a block that the system gave, or null.
///
/// # Safety
/// `block` is null or has a [`LINE`] more than the caller hands on.
unsafe fn first_line(block: *mut u8) -> *mut u8 {
    if block.is_null() {
        return block;
    }
    let pointer = size_of::<*mut u8>();
    // SAFETY: between the aligned beginning of the block and the line there is room for a pointer, and behind it for the rest.
    unsafe {
        let line = block.add(pointer + (block.addr() + pointer).next_multiple_of(LINE) - (block.addr() + pointer));
        line.cast::<*mut u8>().sub(1).write(block);
        line
    }
}

// SAFETY: the system's allocator is one; what is large is so by its layout alone, which is the same at the end.
unsafe impl GlobalAlloc for Aligned {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match whole(layout) {
            // SAFETY: the caller's promises are passed on, here and below.
            Some(whole) => unsafe { first_line(System.alloc(whole)) },
            // SAFETY: as above.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match whole(layout) {
            // SAFETY: as above.
            Some(whole) => unsafe { first_line(System.alloc_zeroed(whole)) },
            // SAFETY: as above.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match whole(layout) {
            // SAFETY: `first_line` wrote the address of the whole in front of it.
            Some(whole) => unsafe { System.dealloc(block.cast::<*mut u8>().sub(1).read(), whole) },
            // SAFETY: as above.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}

/// Keeps what one training step frees for the next one: memory that goes back to the system comes again as page faults, which
/// cost a step of ResNet-50 a seventh of its time. All of it lies in one heap, where neighbours that are free become one piece:
/// maps come in a dozen sizes, and allocators that keep each size apart hold half as much again.
pub(crate) fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // An unknown setting is refused and changes nothing: then the program is slower, not wrong.
    for (setting, value) in [(libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1), (libc::M_ARENA_MAX, 1)] {
        // SAFETY: setting an option is unsafe only beside other threads, and none has been started.
        unsafe { libc::mallopt(setting, value) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blocks_begin_at_a_line_and_keep_what_is_written() {
        for align in [1, 8, 64, 4096] {
            for size in [1, 63, LARGE - 1, LARGE, LARGE + 1, 1 << 20] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: every block is written and read within its layout, and freed once with the same.
                unsafe {
                    let blocks: [*mut u8; 8] = std::array::from_fn(|_| Aligned.alloc(layout));
                    for (i, block) in blocks.into_iter().enumerate() {
                        assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                        assert!(size < LARGE || block.addr().is_multiple_of(LINE), "{layout:?}");
                        block.write_bytes(i as u8, size);
                    }
                    for (i, block) in blocks.into_iter().enumerate() {
                        assert!((0..size).all(|at| block.add(at).read() == i as u8), "{layout:?}");
                        Aligned.dealloc(block, layout);
                    }
                    let zeros = Aligned.alloc_zeroed(layout);
                    assert!((0..size).all(|at| zeros.add(at).read() == 0), "{layout:?}");
                    let longer = Layout::from_size_align(2 * size, align).unwrap();
                    let block = Aligned.realloc(zeros, layout, longer.size());
                    assert!((0..size).all(|at| block.add(at).read() == 0), "{layout:?}");
                    Aligned.dealloc(block, longer);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        let layout = Layout::from_size_align(isize::MAX as usize - 8, 1).unwrap();
        // SAFETY: nothing is done with the block.
        assert!(unsafe { std::hint::black_box(Aligned.alloc(layout)) }.is_null());
    }
}
