// Kernels that need what block.cpp and driver.cpp promise; self_test.cpp launches them.

// The sum of `count` numbers by one block: strides, a warp's shuffles, and a tree in shared memory.
extern "C" __global__ void self_test_sum(const float *numbers, int count, float *sum) {
    __shared__ float of_warp[32];
    const int threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
    float own = 0;
    for (int i = thread; i < count; i += threads) own += numbers[i];
    for (int lanes = 16; lanes > 0; lanes /= 2) own += __shfl_xor_sync(0xffffffff, own, lanes);
    if (thread % 32 == 0) of_warp[thread / 32] = own;
    __syncthreads();
    for (int warps = threads / 64; warps > 0; warps /= 2) {
        if (thread < warps) of_warp[thread] += of_warp[thread + warps];
        __syncthreads();
    }
    if (thread == 0) *sum = of_warp[0];
}

// What lanes get from others: seven answers for each of 32.
extern "C" __global__ void self_test_lanes(int *answers) {
    const int lane = threadIdx.x;
    int *own = answers + 7 * lane;
    own[0] = __shfl_sync(0xffffffff, lane, 5);
    own[1] = __shfl_up_sync(0xffffffff, lane, 3);
    own[2] = __shfl_down_sync(0xffffffff, lane, 3);
    own[3] = int(__shfl_xor_sync(0xffffffff, double(lane), 1));
    own[4] = int(__ballot_sync(0xffffffff, lane % 3 == 0));
    own[5] = __any_sync(0xffffffff, lane == 31);
    own[6] = __all_sync(0xffffffff, lane < 31);
}

// Turns every block's part round by way of dynamic shared memory. Threads outside leave before the barrier.
extern "C" __global__ void self_test_reverse(int *numbers, int count) {
    DYNAMIC_SHARED(int, shared);
    const int first = blockIdx.x * blockDim.x, size = min(int(blockDim.x), count - first), thread = threadIdx.x;
    if (thread >= size) return;
    shared[thread] = numbers[first + thread];
    __syncthreads();
    numbers[first + thread] = shared[size - 1 - thread];
}

// Writes `number` at `at`, which may lie outside.
extern "C" __global__ void self_test_poke(unsigned char *bytes, long long at, unsigned char number) {
    bytes[at] = number;
}

// Half of the threads wait in vain.
extern "C" __global__ void self_test_deadlock() {
    if (threadIdx.x < 32) __syncthreads();
    else __shfl_sync(0xffffffff, 1, threadIdx.x == 63 ? 0 : (__syncthreads(), 0));
}

// Two barriers where there should be one.
extern "C" __global__ void self_test_two_barriers() {
    if (threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

// Whether stacks are aligned, of threads that wait, too.
extern "C" __global__ void self_test_stack(unsigned long long *crooked) {
    alignas(16) volatile float numbers[4] = {};
    *crooked |= reinterpret_cast<unsigned long long>(__builtin_frame_address(0)) % 16;
    __syncthreads();
    *crooked |= reinterpret_cast<unsigned long long>(&numbers[0]) % 16;
}

HOST_KERNEL(self_test_stack)
HOST_KERNEL(self_test_sum)
HOST_KERNEL(self_test_lanes)
HOST_KERNEL(self_test_reverse)
HOST_KERNEL(self_test_poke)
HOST_KERNEL(self_test_deadlock)
HOST_KERNEL(self_test_two_barriers)
