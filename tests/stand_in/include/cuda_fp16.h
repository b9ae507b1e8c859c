// What kernels of candle need of CUDA's 16-bit numbers: each operation widens, and rounds once.
#pragma once

#include "../numbers.hpp"

template <class Bits>
struct StandInNarrow {
    uint16_t bits;

    StandInNarrow() = default;
    template <class N, class = std::enable_if_t<std::is_arithmetic_v<N>>>
    StandInNarrow(N number) : bits(Bits(float(number)).bits) {}

    operator float() const {
        Bits same(0.0f);
        same.bits = bits;
        return same;
    }

    StandInNarrow operator-() const { return -float(*this); }
    StandInNarrow operator+(StandInNarrow other) const { return float(*this) + float(other); }
    StandInNarrow operator-(StandInNarrow other) const { return float(*this) - float(other); }
    StandInNarrow operator*(StandInNarrow other) const { return float(*this) * float(other); }
    StandInNarrow operator/(StandInNarrow other) const { return float(*this) / float(other); }
    StandInNarrow &operator+=(StandInNarrow other) { return *this = *this + other; }
    StandInNarrow &operator*=(StandInNarrow other) { return *this = *this * other; }
    bool operator<(StandInNarrow other) const { return float(*this) < float(other); }
    bool operator>(StandInNarrow other) const { return float(*this) > float(other); }
    bool operator<=(StandInNarrow other) const { return float(*this) <= float(other); }
    bool operator>=(StandInNarrow other) const { return float(*this) >= float(other); }
    bool operator==(StandInNarrow other) const { return float(*this) == float(other); }
    bool operator!=(StandInNarrow other) const { return float(*this) != float(other); }
};

using __half = StandInNarrow<stand_in::F16>;

inline float __half2float(__half x) { return x; }
inline __half __float2half(float x) { return x; }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) {
    __half x;
    x.bits = bits;
    return x;
}

template <class B> bool __hisnan(StandInNarrow<B> x) { return isnan(float(x)); }
template <class B> StandInNarrow<B> __habs(StandInNarrow<B> x) { return fabsf(x); }
template <class B> StandInNarrow<B> __hmax_nan(StandInNarrow<B> x, StandInNarrow<B> y) { return __hisnan(x) || x > y ? x : y; }
template <class B> StandInNarrow<B> __hmin_nan(StandInNarrow<B> x, StandInNarrow<B> y) { return __hisnan(x) || x < y ? x : y; }
template <class B> StandInNarrow<B> __hmax(StandInNarrow<B> x, StandInNarrow<B> y) { return fmaxf(x, y); }
template <class B> StandInNarrow<B> __hmin(StandInNarrow<B> x, StandInNarrow<B> y) { return fminf(x, y); }
template <class B> StandInNarrow<B> hsqrt(StandInNarrow<B> x) { return sqrtf(x); }
template <class B> StandInNarrow<B> hexp(StandInNarrow<B> x) { return expf(x); }
template <class B> StandInNarrow<B> hlog(StandInNarrow<B> x) { return logf(x); }
template <class B> StandInNarrow<B> hsin(StandInNarrow<B> x) { return sinf(x); }
template <class B> StandInNarrow<B> hcos(StandInNarrow<B> x) { return cosf(x); }
