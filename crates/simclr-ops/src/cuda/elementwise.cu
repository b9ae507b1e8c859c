// Sums of gradients. Memory moved per number: two reads and a write.
#include "device.cuh"

// sum += term, in f32, rounded once.
template <class T>
__device__ void add(T *sum, const T *term, int64_t count) {
    constexpr int N = WIDEST<T>;
    const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    // A tensor may begin anywhere in its memory, and end in the middle of a pack.
    const bool aligned = (uintptr_t(sum) | uintptr_t(term)) % 16 == 0;
    if (aligned && at + N <= count) {
        Pack<T, N> to = load<N>(sum + at);
        const Pack<T, N> from = load<N>(term + at);
        for (int i = 0; i < N; ++i) to.numbers[i] = narrow<T>(widen(to.numbers[i]) + widen(from.numbers[i]));
        store<N>(sum + at, to);
    } else {
        for (int64_t i = at; i < at + N && i < count; ++i) sum[i] = narrow<T>(widen(sum[i]) + widen(term[i]));
    }
}

#define OF_TYPE(T, suffix)                                                                             \
    extern "C" __global__ void elementwise_add_##suffix(T *sum, const T *term, int64_t count) {        \
        add<T>(sum, term, count);                                                                      \
    }                                                                                                  \
    HOST_KERNEL(elementwise_add_##suffix)

OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
OF_TYPE(f16, f16)
