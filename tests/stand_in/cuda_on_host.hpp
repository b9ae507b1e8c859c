// CUDA C++ for the host compiler: this file is force-included (-include) when a `.cu` file is compiled by g++.
//
// What kernels of this project need is here, not all of CUDA. Types of 16 bits are not: the kernels bring their own. Neither __CUDACC__
// nor __CUDA_ARCH__ is defined, so that code for a GPU only, such as inline PTX, is left out; SIMCLR_ON_HOST is, for what differs.
//
// Threads of a block run one after another on one core, each until it waits for others: block.cpp. So plain loads and stores are
// "atomic", and __shared__ is one static variable that all blocks use in turn.
#pragma once

#define SIMCLR_ON_HOST 1

#include <cmath>
#include <math.h>

#include <cassert>
#include <cfloat>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

// ---- Vectors of numbers, aligned as CUDA aligns them: a wrong cast to one of them is caught where the compiler uses aligned moves.

#define STAND_IN_VECTORS(type, name, align2, align4)                                                                                    \
    struct name##1 { type x; };                                                                                                         \
    struct alignas(align2) name##2 { type x, y; };                                                                                      \
    struct name##3 { type x, y, z; };                                                                                                   \
    struct alignas(align4) name##4 { type x, y, z, w; };                                                                                \
    inline name##1 make_##name##1(type x) { return {x}; }                                                                               \
    inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                                                    \
    inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                                                         \
    inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
STAND_IN_VECTORS(signed char, char, 2, 4)
STAND_IN_VECTORS(unsigned char, uchar, 2, 4)
STAND_IN_VECTORS(short, short, 4, 8)
STAND_IN_VECTORS(unsigned short, ushort, 4, 8)
STAND_IN_VECTORS(int, int, 8, 16)
STAND_IN_VECTORS(unsigned int, uint, 8, 16)
STAND_IN_VECTORS(long long, longlong, 16, 16)
STAND_IN_VECTORS(unsigned long long, ulonglong, 16, 16)
STAND_IN_VECTORS(float, float, 8, 16)
STAND_IN_VECTORS(double, double, 16, 16)
#undef STAND_IN_VECTORS

struct dim3 {
    unsigned int x, y, z;
    constexpr dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

// ---- Where a thread is, and how it waits for others.

namespace stand_in {

// Set by the scheduler whenever it goes on with a thread. Plain variables: launches hold a lock.
extern uint3 thread_index, block_index;
extern dim3 block_size, grid_size;

// What a thread of a warp brings to an exchange: it gets the value of lane `source`, or, in a vote, the bits of all who voted yes.
enum class Exchange { SHUFFLE, VOTE, WAIT };

// The place in the source shows two threads that wait at different barriers, and says where in messages.
void block_barrier(const char *file, int line);
uint64_t warp_exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, const char *file, int line);
int lane();
// The memory that a launch asked for beside the kernel's own __shared__ variables.
void *dynamic_shared();
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

// A kernel, as cuModuleGetFunction finds it. They form a list, since their order of construction is unknown.
struct Kernel {
    const char *name;
    void (*run)(const Kernel &, void **params);
    void (*function)();
    Kernel *next;
    uint64_t launches = 0;
    // cuFuncSetAttribute may raise it.
    int most_dynamic_shared = 48 << 10;

    template <class... A>
    Kernel(const char *name, void (*kernel)(A...)) : name(name), run(call<A...>), function(reinterpret_cast<void (*)()>(kernel)) {
        next = first();
        first() = this;
    }

    static Kernel *&first();

private:
    template <class... A>
    static void call(const Kernel &kernel, void **params) {
        unpack<A...>(reinterpret_cast<void (*)(A...)>(kernel.function), params, std::index_sequence_for<A...>{});
    }

    template <class... A, size_t... I>
    static void unpack(void (*function)(A...), [[maybe_unused]] void **params, std::index_sequence<I...>) {
        function(*static_cast<std::decay_t<A> *>(params[I])...);
    }
};

template <class T>
uint64_t bits_of(T value) {
    static_assert(sizeof(T) <= 8, "a thread exchanges at most 64 bits");
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class T>
T of_bits(uint64_t bits) {
    T value;
    std::memcpy(&value, &bits, sizeof(T));
    return value;
}

// `source` of lane `lane`, kept within its part of `width` lanes, or the lane itself if it lies outside, as CUDA has it.
template <class T>
T shuffle(unsigned mask, T value, int source, int width, const char *file, int line) {
    const int own = lane(), first = own & ~(width - 1);
    if (source < first || source >= first + width) source = own;
    return of_bits<T>(warp_exchange(Exchange::SHUFFLE, mask, bits_of(value), unsigned(source), file, line));
}

}  // namespace stand_in

#define threadIdx (::stand_in::thread_index)
#define blockIdx (::stand_in::block_index)
#define blockDim (::stand_in::block_size)
#define gridDim (::stand_in::grid_size)
constexpr int warpSize = 32;

// At the end of a `.cu` file, for every kernel.
#define HOST_KERNEL(name) static ::stand_in::Kernel stand_in_kernel_##name(#name, name);

// Instead of `extern __shared__ type name[];`, which no host compiler can be made to read.
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(::stand_in::dynamic_shared())

#define STAND_IN_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(STAND_IN_SITE) {
    stand_in::block_barrier(file, line);
}

inline void __syncwarp(unsigned mask = 0xffffffffu, STAND_IN_SITE) {
    stand_in::warp_exchange(stand_in::Exchange::WAIT, mask, 0, 0, file, line);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, STAND_IN_SITE) {
    return stand_in::shuffle(mask, value, (stand_in::lane() & ~(width - 1)) + (source & (width - 1)), width, file, line);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, STAND_IN_SITE) {
    return stand_in::shuffle(mask, value, stand_in::lane() ^ lanes, width, file, line);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32, STAND_IN_SITE) {
    return stand_in::shuffle(mask, value, stand_in::lane() + int(lanes), width, file, line);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32, STAND_IN_SITE) {
    return stand_in::shuffle(mask, value, stand_in::lane() - int(lanes), width, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int vote, STAND_IN_SITE) {
    return unsigned(stand_in::warp_exchange(stand_in::Exchange::VOTE, mask, vote != 0, 0, file, line));
}

inline int __any_sync(unsigned mask, int vote, STAND_IN_SITE) {
    return __ballot_sync(mask, vote, file, line) != 0;
}

// Nobody votes no.
inline int __all_sync(unsigned mask, int vote, STAND_IN_SITE) {
    return __ballot_sync(mask, !vote, file, line) == 0;
}

inline void __threadfence() {}
inline void __threadfence_block() {}

// ---- "Atomics".

#define STAND_IN_ATOMIC(name, expression)                                                                                               \
    template <class T>                                                                                                                  \
    T name(T *address, std::common_type_t<T> value) {                                                                                   \
        const T old = *address;                                                                                                         \
        *address = expression;                                                                                                          \
        return old;                                                                                                                     \
    }
STAND_IN_ATOMIC(atomicAdd, T(old + value))
STAND_IN_ATOMIC(atomicSub, T(old - value))
STAND_IN_ATOMIC(atomicMax, old < value ? value : old)
STAND_IN_ATOMIC(atomicMin, value < old ? value : old)
STAND_IN_ATOMIC(atomicOr, T(old | value))
STAND_IN_ATOMIC(atomicAnd, T(old & value))
STAND_IN_ATOMIC(atomicXor, T(old ^ value))
STAND_IN_ATOMIC(atomicExch, value)
#undef STAND_IN_ATOMIC

template <class T>
T atomicCAS(T *address, std::common_type_t<T> expected, std::common_type_t<T> value) {
    const T old = *address;
    if (old == expected) *address = value;
    return old;
}

// ---- Mathematics. math.h has what has the same name in C.

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
    else return T(b) < T(a) ? T(b) : T(a);
}

template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
    else return T(a) < T(b) ? T(b) : T(a);
}

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline double rsqrt(double x) { return 1.0 / sqrt(x); }
inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }
inline double normcdf(double x) { return 0.5 * erfc(-x * 0.70710678118654752); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }

// Macros, since glibc has functions of its own by some of these names.
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __fdividef(x, y) ((x) / (y))

// Compiled without contraction, plain operators round once each.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __dsqrt_rn(double a) { return sqrt(a); }

inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline unsigned __float2uint_rz(float x) { return unsigned(x); }
inline unsigned __float2uint_rn(float x) { return unsigned(rintf(x)); }
inline int __double2int_rz(double x) { return int(x); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __double2float_rn(double x) { return float(x); }

inline unsigned __float_as_uint(float x) { return stand_in::of_bits<unsigned>(stand_in::bits_of(x)); }
inline int __float_as_int(float x) { return stand_in::of_bits<int>(stand_in::bits_of(x)); }
inline float __uint_as_float(unsigned x) { return stand_in::of_bits<float>(x); }
inline float __int_as_float(int x) { return stand_in::of_bits<float>(unsigned(x)); }
inline long long __double_as_longlong(double x) { return stand_in::of_bits<long long>(stand_in::bits_of(x)); }
inline double __longlong_as_double(long long x) { return stand_in::of_bits<double>(stand_in::bits_of(x)); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}

template <class T>
T __ldg(const T *address) {
    return *address;
}

#define CUDART_INF_F __builtin_inff()
#define CUDART_NAN_F __builtin_nanf("")
#define CUDART_INF __builtin_inf()
