// Kernels of candle name 8-bit floats. Nobody here computes with them: they compile, and end the program if they run.
#pragma once

#include "cuda_bf16.h"

struct __nv_fp8_e4m3 {
    unsigned char __x;

    __nv_fp8_e4m3() = default;
    template <class N, class = std::enable_if_t<std::is_arithmetic_v<N>>>
    __nv_fp8_e4m3(N) {
        stand_in::fail("8-bit floats are not supported");
    }
    template <class B>
    __nv_fp8_e4m3(StandInNarrow<B>) : __nv_fp8_e4m3(0) {}

    operator float() const { stand_in::fail("8-bit floats are not supported"); }
};

enum { __NV_E4M3 };
inline __half __nv_cvt_fp8_to_halfraw(unsigned char, int) { stand_in::fail("8-bit floats are not supported"); }
