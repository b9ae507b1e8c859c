// Weights between the order of PyTorch, f32, and the order and type in which cuDNN wants them beside NHWC maps. See cuda.rs.
//
// Memory moved per weight: 4 bytes and those of the type of the maps, each way.
#include "../cuda/device.cuh"

// [c_out, c_in, taps] to [c_out, taps, c_in], rounded; neighbours write neighbours.
template <class T>
__device__ void pack(const float *weight, T *packed, int64_t count, int c_in, int taps) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int channel = at % c_in, tap = at / c_in % taps;
    const int64_t kernel = at / c_in / taps;
    packed[at] = narrow<T>(weight[(kernel * c_in + channel) * taps + tap]);
}

// And back, widened.
template <class T>
__device__ void unpack(const T *packed, float *weight, int64_t count, int c_in, int taps) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int channel = at % c_in, tap = at / c_in % taps;
    const int64_t kernel = at / c_in / taps;
    weight[(kernel * c_in + channel) * taps + tap] = widen(packed[at]);
}

#define OF_TYPE(T, suffix)                                                                                                       \
    extern "C" __global__ void conv2d_pack_##suffix(const float *weight, T *packed, int64_t count, int c_in, int taps) {         \
        pack<T>(weight, packed, count, c_in, taps);                                                                              \
    }                                                                                                                            \
    HOST_KERNEL(conv2d_pack_##suffix)                                                                                            \
    extern "C" __global__ void conv2d_unpack_##suffix(const T *packed, float *weight, int64_t count, int c_in, int taps) {       \
        unpack<T>(packed, weight, count, c_in, taps);                                                                            \
    }                                                                                                                            \
    HOST_KERNEL(conv2d_unpack_##suffix)

OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
OF_TYPE(f16, f16)
