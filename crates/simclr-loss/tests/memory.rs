//! The memory of the fused loss grows with the batch, not with its square: counted, not believed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use candle_core::{DType, Device, Tensor, Var};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[allow(unsafe_code)]
// SAFETY: every call goes to the system's allocator unchanged; only sizes are counted beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(live, SeqCst);
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: `pointer` came from `System.alloc` with this `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes above the start that one forward and backward needs at its peak, on one thread.
fn peak(n: usize) -> usize {
    let view = || Var::from_tensor(&Tensor::ones((n, 8), DType::F32, &Device::Cpu).unwrap()).unwrap();
    let (left, right) = (view(), view());
    let start = LIVE.load(SeqCst);
    PEAK.store(start, SeqCst);
    simclr_loss::nt_xent(&left, &right, 0.5).unwrap().backward().unwrap();
    PEAK.load(SeqCst) - start
}

#[test]
fn memory_is_linear_in_the_batch() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let [small, large] = pool.install(|| {
        peak(64); // what is allocated once
        [peak(1024), peak(4096)]
    });
    // The matrix of 8192 views would be 256 MiB; four times the rows may cost at most a little over four times the memory.
    assert!(large < 8 << 20, "{large} bytes");
    assert!(large < 5 * small, "{small} bytes for 1024, {large} for 4096");
}
