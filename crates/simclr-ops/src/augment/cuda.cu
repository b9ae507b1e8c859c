// Views of pictures that lie on the device, to the bit as the steps beside this file make them. See cuda.rs for who calls it.
//
// A block makes a view: it computes the weights of both axes, resizes the crop in two passes, and goes over the pixels once for all
// steps of the colour jitter, or twice if one of them is contrast, which asks for the mean of what the steps before it left. A pixel
// is a word (red, green, blue from the lowest byte on). What a block works on is shared memory as far as it fits, and else scratch
// that the block has for itself; where blocks need scratch there are fewer of them, each of which makes several views.
//
// This file is compiled without fused multiply-adds, and every sum is made in the order in which the CPU makes it: rounding twice
// or in another order would change bits. The loops are plain: by a rough count they take some hundred instructions a pixel, where an
// H100 has 14,000 if it is to make two million views of 32 × 32 pixels a second.
#include "../cuda/device.cuh"

// As in cuda.rs.
constexpr int THREADS = 256;
constexpr int SHARED_WORDS = 6144;

// As in resize.rs.
constexpr int WEIGHT_BITS = 22;
constexpr int HALF = 1 << (WEIGHT_BITS - 1);

// As in packed.rs. Others are none.
enum Step { BRIGHTNESS, CONTRAST, SATURATION, HUE, STEPS };

// A view as packed.rs writes it down.
struct View {
    uint32_t picture;
    int32_t left, top, width, height;
    // A step of the colour jitter in each byte, the first in the lowest.
    uint32_t steps;
    // By step.
    float factors[3];
    // What is added to hue bytes.
    int32_t hue;
    int32_t flip, grayscale;
    // Bytes from here on turn into their negative; 256 if none does.
    int32_t solarize;
    // Where the weights of the blur begin, after the last view; negative if there is none.
    int32_t blur;
};

// The weights of one axis: for every position of the view the first pixel under its triangle, how many there are, and their weights.
struct Axis {
    int *starts, *counts, *weights;
    // Between the weights of a position and of the next.
    int stride;
};

__device__ __forceinline__ int cut(float number) {
    number = number > 0.0f ? number : 0.0f;
    number = number < 255.0f ? number : 255.0f;
    return int(number);
}

__device__ __forceinline__ int channel(uint32_t pixel, int c) {
    return pixel >> 8 * c & 255;
}

__device__ __forceinline__ uint32_t pixel_of(int red, int green, int blue) {
    return uint32_t(red) | uint32_t(green) << 8 | uint32_t(blue) << 16;
}

// A picture of bytes, from the first one of the crop on.
struct Crop {
    const uint8_t *bytes;
    int64_t stride;

    __device__ __forceinline__ uint32_t at(int x, int y) const {
        const uint8_t *pixel = bytes + y * stride + 3 * x;
        return pixel_of(pixel[0], pixel[1], pixel[2]);
    }
};

// Pixels in words.
struct Words {
    const uint32_t *pixels;
    int width;

    __device__ __forceinline__ uint32_t at(int x, int y) const {
        return pixels[int64_t(y) * width + x];
    }
};

// The three sums of weighted bytes that make a pixel.
struct Sums {
    int red = HALF, green = HALF, blue = HALF;

    __device__ __forceinline__ void add(uint32_t pixel, int weight) {
        red += channel(pixel, 0) * weight;
        green += channel(pixel, 1) * weight;
        blue += channel(pixel, 2) * weight;
    }

    // Rounded weights can sum to a little more than 1.
    static __device__ __forceinline__ int clip(int sum) {
        const int byte = sum >> WEIGHT_BITS;
        return byte < 255 ? byte : 255;
    }

    __device__ __forceinline__ uint32_t pixel() const {
        return pixel_of(clip(red), clip(green), clip(blue));
    }
};

// PIL's ksize: no triangle covers more of `input` pixels on their way to `output`.
__device__ __forceinline__ int most_taps(int input, int output) {
    const int support = (input - 1) / output + 1;
    return 2 * support + 1;
}

// The axis that begins at `memory`.
__device__ __forceinline__ Axis axis_at(uint32_t *memory, int input, int output) {
    int *numbers = reinterpret_cast<int *>(memory);
    return {numbers, numbers + output, numbers + 2 * output, most_taps(input, output)};
}

__device__ __forceinline__ double triangle(int x, double center, double steepness) {
    const double distance = (double(x) - center + 0.5) * steepness, magnitude = distance < 0.0 ? -distance : distance;
    return magnitude < 1.0 ? 1.0 - magnitude : 0.0;
}

// The weights of one position: Weights::set of resize.rs, which also drops weights of 0.
__device__ void set_weights(const Axis &axis, int position, int input, int output) {
    const double scale = double(input) / double(output);
    const double support = scale > 1.0 ? scale : 1.0;
    const double steepness = 1.0 / support;
    const double center = (double(position) + 0.5) * scale;
    const double first = center - support + 0.5;
    const int start = first > 0.0 ? int(first) : 0;
    const int last = int(center + support + 0.5), end = last < input ? last : input;
    double sum = 0.0;
    for (int x = start; x < end; ++x) sum = sum + triangle(x, center, steepness);
    int *weights = axis.weights + position * axis.stride;
    for (int x = start; x < end; ++x) {
        const double weight = triangle(x, center, steepness);
        const double normalised = sum == 0.0 ? weight : weight / sum;
        weights[x - start] = int(0.5 + normalised * double(1 << WEIGHT_BITS));
    }
    axis.starts[position] = start;
    axis.counts[position] = end - start;
}

// `rows` rows of `size` pixels.
template <class Source>
__device__ void across(Source from, int rows, int size, const Axis &axis, bool flip, uint32_t *to) {
    for (int i = threadIdx.x; i < rows * size; i += THREADS) {
        const int y = i / size, x = i - y * size;
        const int start = axis.starts[x], count = axis.counts[x];
        const int *weights = axis.weights + x * axis.stride;
        Sums sums;
        for (int k = 0; k < count; ++k) sums.add(from.at(start + k, y), weights[k]);
        to[y * size + (flip ? size - 1 - x : x)] = sums.pixel();
    }
}

// `size` rows of `columns` pixels.
template <class Source>
__device__ void down(Source from, int columns, int size, const Axis &axis, bool flip, uint32_t *to) {
    for (int i = threadIdx.x; i < size * columns; i += THREADS) {
        const int y = i / columns, x = i - y * columns;
        const int start = axis.starts[y], count = axis.counts[y];
        const int *weights = axis.weights + y * axis.stride;
        Sums sums;
        for (int k = 0; k < count; ++k) sums.add(from.at(x, start + k), weights[k]);
        to[y * columns + (flip ? columns - 1 - x : x)] = sums.pixel();
    }
}

__device__ __forceinline__ int luma(int red, int green, int blue) {
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

__device__ __forceinline__ int luma(uint32_t pixel) {
    return luma(channel(pixel, 0), channel(pixel, 1), channel(pixel, 2));
}

__device__ __forceinline__ int blend(int from, int to, float factor) {
    return cut(float(from) + factor * float(to - from));
}

// Blends with a pixel of one gray.
__device__ __forceinline__ uint32_t blend_with_gray(uint32_t pixel, int gray, float factor) {
    return pixel_of(blend(gray, channel(pixel, 0), factor), blend(gray, channel(pixel, 1), factor),
                    blend(gray, channel(pixel, 2), factor));
}

// To HSV, round the circle and back, in single precision: fast/hue.rs, which says why that is enough.
__device__ uint32_t turned(uint32_t pixel, int shift) {
    const int red = channel(pixel, 0), green = channel(pixel, 1), blue = channel(pixel, 2);
    const int red_green = red > green ? red : green, high = red_green > blue ? red_green : blue;
    const int least = red < green ? red : green, low = least < blue ? least : blue;
    const float range = float(high - low > 1 ? high - low : 1);
    const float middle = float(high - (red + green + blue - high - low)) / range;
    const int saturation = int(float(high - low) / float(high > 1 ? high : 1) * 255.0f);
    float start, sign;
    if (red == high) {
        start = blue == low ? 1.0f : -1.0f;
        sign = blue == low ? -1.0f : 1.0f;
    } else if (green == high) {
        start = blue == low ? 1.0f : 3.0f;
        sign = blue == low ? 1.0f : -1.0f;
    } else {
        start = green == low ? 5.0f : 3.0f;
        sign = green == low ? -1.0f : 1.0f;
    }
    float turn = (start + sign * middle) / 6.0f;
    turn = turn < 0.0f ? turn + 1.0f : turn;
    const int hue = (int(turn * 255.0f) + shift) & 255;

    const int sixths = 6 * hue, sector = (sixths + 1 + (sixths >> 8)) >> 8;
    const float within = float(sixths - 255 * sector) * (1.0f / 255.0f), depth = float(saturation) * (1.0f / 255.0f);
    const float light = float(high), share = sector & 1 ? within : 1.0f - within;
    const int bottom = int(light * (1.0f - depth) + 0.5f), between = int(light * (1.0f - depth * share) + 0.5f);
    // Sector 6 is the first again.
    switch (sector) {
    case 1: return pixel_of(between, high, bottom);
    case 2: return pixel_of(bottom, high, between);
    case 3: return pixel_of(bottom, between, high);
    case 4: return pixel_of(between, bottom, high);
    case 5: return pixel_of(high, bottom, between);
    default: return pixel_of(high, between, bottom);
    }
}

__device__ __forceinline__ int step_of(const View &view, int place) {
    return view.steps >> 8 * place & 255;
}

// The colour jitter from step `first` to before step `end`; `gray` is the mean that contrast blends with.
__device__ __forceinline__ uint32_t jittered(uint32_t pixel, const View &view, int first, int end, int gray) {
    for (int place = first; place < end; ++place) {
        switch (step_of(view, place)) {
        case BRIGHTNESS: pixel = blend_with_gray(pixel, 0, view.factors[BRIGHTNESS]); break;
        case CONTRAST: pixel = blend_with_gray(pixel, gray, view.factors[CONTRAST]); break;
        case SATURATION: pixel = blend_with_gray(pixel, luma(pixel), view.factors[SATURATION]); break;
        case HUE: pixel = turned(pixel, view.hue); break;
        default: break;
        }
    }
    return pixel;
}

// The sum of a whole number of every thread, in all of them.
__device__ int block_sum(int number) {
    __shared__ int sums[THREADS / 32];
    const int of_warp = warp_sum(number);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = of_warp;
    __syncthreads();
    int sum = 0;
    for (int warp = 0; warp < THREADS / 32; ++warp) sum += sums[warp];
    return sum;
}

// Colour jitter and gray. A thread keeps its pixels, so that only the mean needs the others.
__device__ void colour(const View &view, int pixels, uint32_t *at) {
    int contrast = 0;
    while (contrast < STEPS && step_of(view, contrast) != CONTRAST) ++contrast;
    int first = 0, gray = 0;
    if (contrast < STEPS) {
        int sum = 0;
        for (int i = threadIdx.x; i < pixels; i += THREADS) {
            at[i] = jittered(at[i], view, 0, contrast, 0);
            sum += luma(at[i]);
        }
        gray = int(double(block_sum(sum)) / double(pixels) + 0.5);
        first = contrast;
    }
    for (int i = threadIdx.x; i < pixels; i += THREADS) {
        const uint32_t pixel = jittered(at[i], view, first, STEPS, gray);
        at[i] = view.grayscale ? luma(pixel) * 0x010101u : pixel;
    }
}

// The position `shifted - radius` in a row of `len`, mirrored back where it lies outside.
__device__ __forceinline__ int mirrored(int shifted, int radius, int len) {
    const int from_edge = shifted > radius ? shifted - radius : radius - shifted;
    return shifted >= radius && from_edge >= len ? 2 * (len - 1) - from_edge : from_edge;
}

// Weighs pixels with their neighbours: rows first, which leaves f32, then columns. A row is 3 · size bytes here, of which a strip of
// some is blurred at a time: as many as `strip` has room for.
__device__ void blur(const uint32_t *from, int size, const float *kernel, float *strip, int columns, uint32_t *to) {
    const int radius = size / 20, taps = 2 * radius + 1;
    // Adding it rounds to a whole number, to even: no digits are left behind the point.
    constexpr float ROUND = 12582912.0f;
    for (int first = 0; first < 3 * size; first += columns) {
        const int width = 3 * size - first < columns ? 3 * size - first : columns;
        for (int i = threadIdx.x; i < size * width; i += THREADS) {
            const int y = i / width, column = first + i - y * width, x = column / 3, c = column - 3 * x;
            float sum = 0.0f;
            for (int k = 0; k < taps; ++k) {
                sum = sum + kernel[k] * float(channel(from[y * size + mirrored(x + k, radius, size)], c));
            }
            strip[i] = sum;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < size * width; i += THREADS) {
            const int y = i / width, in_strip = i - y * width, column = first + in_strip, x = column / 3, c = column - 3 * x;
            float sum = 0.0f;
            for (int k = 0; k < taps; ++k) sum = sum + kernel[k] * strip[mirrored(y + k, radius, size) * width + in_strip];
            reinterpret_cast<uint8_t *>(to)[4 * (y * size + x) + c] = uint8_t(cut((sum + ROUND) - ROUND));
        }
        __syncthreads();
    }
}

template <class T>
__device__ __forceinline__ T number_of(const float *table, int c, int byte) {
    return narrow<T>(table[256 * c + byte]);
}

template <>
__device__ __forceinline__ uint8_t number_of<uint8_t>(const float *, int, int byte) {
    return uint8_t(byte);
}

// Views of `size` × `size` pixels of pictures of `height` × `width`, NHWC. `weights_at` and so on say where in shared memory things
// begin, or, as -1 - place, where in a block's scratch of `scratch_words`; the strip of a blur, `columns` bytes wide, is always shared.
template <class T>
__device__ void make_views(const uint8_t *pictures, int height, int width, const View *views, int count, int size, const float *table,
                           uint32_t *scratch, int64_t scratch_words, int weights_at, int between_at, int view_at, int strip_at,
                           int columns, T *out) {
    __shared__ uint32_t shared[SHARED_WORDS];
    scratch += blockIdx.x * scratch_words;
    uint32_t *weights = weights_at >= 0 ? shared + weights_at : scratch + (-1 - weights_at);
    uint32_t *between = between_at >= 0 ? shared + between_at : scratch + (-1 - between_at);
    uint32_t *at = view_at >= 0 ? shared + view_at : scratch + (-1 - view_at);
    // Strides are those of whole pictures, which no crop exceeds.
    const Axis x_axis = axis_at(weights, width, size);
    const Axis y_axis = axis_at(weights + size * (2 + x_axis.stride), height, size);
    const float *kernels = reinterpret_cast<const float *>(views + count);
    for (int v = blockIdx.x; v < count; v += gridDim.x) {
        const View view = views[v];
        const int64_t first = ((int64_t(view.picture) * height + view.top) * width + view.left) * 3;
        const Crop crop = {pictures + first, int64_t(width) * 3};
        for (int i = threadIdx.x; i < 2 * size; i += THREADS) {
            if (i < size) set_weights(x_axis, i, view.width, size);
            else set_weights(y_axis, i - size, view.height, size);
        }
        __syncthreads();
        // Where many rows go, they go first: resize.rs.
        if (view.height > size && 2 * int64_t(view.width) + size < 2 * int64_t(size) + view.height) {
            down(crop, view.width, size, y_axis, false, between);
            __syncthreads();
            across(Words{between, view.width}, size, size, x_axis, view.flip, at);
        } else {
            across(crop, view.height, size, x_axis, false, between);
            __syncthreads();
            down(Words{between, size}, size, size, y_axis, view.flip, at);
        }
        __syncthreads();
        colour(view, size * size, at);
        __syncthreads();
        const uint32_t *made = at;
        if (view.blur >= 0) {
            blur(at, size, kernels + view.blur, reinterpret_cast<float *>(shared + strip_at), columns, between);
            made = between;
        }
        const int bytes = 3 * size * size;
        T *to = out + int64_t(v) * bytes;
        for (int i = threadIdx.x; i < bytes; i += THREADS) {
            const int pixel = i / 3, c = i - 3 * pixel, byte = channel(made[pixel], c);
            to[i] = number_of<T>(table, c, byte < view.solarize ? byte : 255 - byte);
        }
    }
}

#define OF_TYPE(T, name)                                                                                                                \
    extern "C" __global__ void augment_views_##name(const uint8_t *pictures, int height, int width, const View *views, int count,       \
                                                    int size, const float *table, uint32_t *scratch, int64_t scratch_words,             \
                                                    int weights_at, int between_at, int view_at, int strip_at, int columns, T *out) {   \
        make_views<T>(pictures, height, width, views, count, size, table, scratch, scratch_words, weights_at, between_at, view_at,      \
                      strip_at, columns, out);                                                                                          \
    }                                                                                                                                   \
    HOST_KERNEL(augment_views_##name)

OF_TYPE(uint8_t, u8)
OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
OF_TYPE(f16, f16)
