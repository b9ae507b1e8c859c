// Numbers of 16 bits on the host, and products of matrices, for the stand-ins of cuDNN and cuBLAS.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace stand_in {

inline float float_of(uint32_t bits) {
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

inline uint32_t bits_of_float(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}

struct Bf16 {
    uint16_t bits;

    Bf16(float number) {
        const uint32_t wide = bits_of_float(number);
        bits = number != number ? uint16_t(wide >> 16 | 0x40) : uint16_t((wide + 0x7fff + (wide >> 16 & 1)) >> 16);
    }

    operator float() const { return float_of(uint32_t(bits) << 16); }
};

struct F16 {
    uint16_t bits;

    F16(float number) {
        const uint32_t wide = bits_of_float(number), sign = wide >> 16 & 0x8000, magnitude = wide & 0x7fffffff;
        if (magnitude > 0x7f800000) {
            bits = uint16_t(sign | 0x7e00);
        } else if (magnitude >= 0x477ff000) {
            bits = uint16_t(sign | 0x7c00);
        } else if (magnitude < 0x38800000) {
            // Subnormal: multiples of 2^-24. Adding 0.5 leaves these in the last bits of an f32, rounded.
            bits = uint16_t(sign | (bits_of_float(float_of(magnitude) + 0.5f) - 0x3f000000));
        } else {
            bits = uint16_t(sign | (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13);
        }
    }

    operator float() const {
        const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
        if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
        if (exponent == 0) return sign ? -float(fraction) * 0x1p-24f : float(fraction) * 0x1p-24f;
        return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    }
};

// As tensor cores read f32: ten bits behind the point.
inline float tf32(float number) {
    if (number != number) return number;
    const uint32_t bits = bits_of_float(number);
    return (bits & 0x7f800000) == 0x7f800000 ? number : float_of((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu);
}

// c += a · b, all in rows: a of `rows` × `depth`, b of `depth` × `columns`. Every number of c is summed in the order of `depth`, whatever
// instructions there are, so that all machines give the same bits.
template <class T>
[[gnu::always_inline]] inline void add_product_of(const T *a, const T *b, T *c, size_t rows, size_t depth, size_t columns) {
    // Four rows share what is read of b, and a strip of c stays in the first cache.
    constexpr size_t STRIP = 256;
    for (size_t first = 0; first < columns; first += STRIP) {
        const size_t width = columns - first < STRIP ? columns - first : STRIP;
        size_t row = 0;
        for (; row + 4 <= rows; row += 4) {
            const T *a0 = a + row * depth, *a1 = a0 + depth, *a2 = a1 + depth, *a3 = a2 + depth;
            T *__restrict__ c0 = c + row * columns + first, *__restrict__ c1 = c0 + columns;
            T *__restrict__ c2 = c1 + columns, *__restrict__ c3 = c2 + columns;
            for (size_t k = 0; k < depth; ++k) {
                const T *from = b + k * columns + first;
                const T x0 = a0[k], x1 = a1[k], x2 = a2[k], x3 = a3[k];
                for (size_t i = 0; i < width; ++i) {
                    const T y = from[i];
                    c0[i] += x0 * y;
                    c1[i] += x1 * y;
                    c2[i] += x2 * y;
                    c3[i] += x3 * y;
                }
            }
        }
        for (; row < rows; ++row) {
            T *__restrict__ to = c + row * columns + first;
            for (size_t k = 0; k < depth; ++k) {
                const T *from = b + k * columns + first;
                const T x = a[row * depth + k];
                for (size_t i = 0; i < width; ++i) to[i] += x * from[i];
            }
        }
    }
}

// Wider instructions multiply and add more numbers at a time, each of them still rounded twice (-ffp-contract=off).
#define STAND_IN_CLONES __attribute__((target_clones("default", "avx2", "avx512f")))
STAND_IN_CLONES inline void add_product(const float *a, const float *b, float *c, size_t rows, size_t depth, size_t columns) {
    add_product_of(a, b, c, rows, depth, columns);
}
STAND_IN_CLONES inline void add_product(const double *a, const double *b, double *c, size_t rows, size_t depth, size_t columns) {
    add_product_of(a, b, c, rows, depth, columns);
}

}  // namespace stand_in
