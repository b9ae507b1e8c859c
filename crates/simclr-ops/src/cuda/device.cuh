// What the kernels of this crate share: the types in which maps are kept, packs of numbers that one instruction reads, sums over a block.
//
// The kernels are also compiled for the host (SIMCLR_ON_HOST), where tests run them without a GPU: tests/stand_in. What the host
// compiler cannot know, inline PTX, has a plain form beside it that gives the same bits.
#pragma once

#ifndef SIMCLR_ON_HOST
#include <cstdint>
// The host registers kernels by name; a GPU finds them in the module.
#define HOST_KERNEL(name)
#endif

// Where the report of a step, made or not, says what came of it, and what it says if the step was made: update/report.rs.
enum { REPORT_OUTCOME = 2, REPORT_APPLIED = 1 };

// The upper half of an f32.
struct bf16 {
    uint16_t bits;
};

// IEEE half precision.
struct f16 {
    uint16_t bits;
};

__device__ __forceinline__ float bits_to_float(uint32_t bits) {
    return __uint_as_float(bits);
}

__device__ __forceinline__ float widen(float number) {
    return number;
}

__device__ __forceinline__ float widen(bf16 number) {
    return bits_to_float(uint32_t(number.bits) << 16);
}

__device__ __forceinline__ float widen(f16 number) {
#ifdef __CUDA_ARCH__
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(number.bits));
    return wide;
#else
    const uint32_t sign = uint32_t(number.bits & 0x8000) << 16, exponent = number.bits >> 10 & 31, fraction = number.bits & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        // A subnormal number is its fraction times 2^-24, exactly.
        const float magnitude = float(fraction) * 5.9604644775390625e-8f;
        return sign ? -magnitude : magnitude;
    }
    return bits_to_float(sign | (exponent + 112) << 23 | fraction << 13);
#endif
}

// The nearest number of type T; ties go to the even one.
template <class T>
__device__ __forceinline__ T narrow(float number);

template <>
__device__ __forceinline__ float narrow<float>(float number) {
    return number;
}

template <>
__device__ __forceinline__ bf16 narrow<bf16>(float number) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint16_t bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(number));
    return {bits};
#else
    const uint32_t bits = __float_as_uint(number);
    if (number != number) return {uint16_t((bits | 0x400000) >> 16)};
    return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

template <>
__device__ __forceinline__ f16 narrow<f16>(float number) {
#ifdef __CUDA_ARCH__
    uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(number));
    return {bits};
#else
    const uint32_t bits = __float_as_uint(number), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return {uint16_t(sign | 0x7e00)};
    // 65520 is the first number that rounds to infinity.
    if (magnitude >= 0x477ff000) return {uint16_t(sign | 0x7c00)};
    if (magnitude < 0x38800000) {
        // Below 2^-14 numbers are multiples of 2^-24: adding 0.5 puts these into the last bits of an f32, rounded.
        const uint32_t rounded = __float_as_uint(bits_to_float(magnitude) + 0.5f) - 0x3f000000;
        return {uint16_t(sign | rounded)};
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return {uint16_t(sign | (rounded - 0x38000000) >> 13)};
#endif
}

// N numbers that are read and written together.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
    T numbers[N];
};

// As many numbers of type T as one instruction moves.
template <class T>
constexpr int WIDEST = 16 / sizeof(T);

template <int N, class T>
__device__ __forceinline__ Pack<T, N> load(const T *from) {
    return *reinterpret_cast<const Pack<T, N> *>(from);
}

template <int N, class T>
__device__ __forceinline__ void store(T *to, const Pack<T, N> &pack) {
    *reinterpret_cast<Pack<T, N> *>(to) = pack;
}

// The sum of a number of each thread of a warp, in all of them; always added in the same order.
template <class T>
__device__ __forceinline__ T warp_sum(T number) {
    for (int distance = 16; distance > 0; distance /= 2) number += __shfl_xor_sync(0xffffffff, number, distance);
    return number;
}

// The sum of a number of each of the THREADS threads of a block, in all of them; always added in the same order.
template <int THREADS>
__device__ __forceinline__ double block_sum(double number) {
    __shared__ double shared[THREADS];
    shared[threadIdx.x] = number;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
    number = shared[0];
    __syncthreads();
    return number;
}
