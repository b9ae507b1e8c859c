// Pooling on NHWC maps: the mean over all pixels, and the greatest number of a window. Neighbouring threads have neighbouring channels.
//
// Memory moved: the map once, and a number a channel; of max-pooling the map, its output and a byte for each output.
#include "device.cuh"

// y[picture, channel]: the mean over the pixels, added in their order.
template <class T>
__device__ void mean_forward(const T *x, float *y, int64_t count, int channels, int pixels) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    x += at / channels * pixels * channels + at % channels;
    float sum = 0;
    for (int pixel = 0; pixel < pixels; ++pixel) sum += widen(x[int64_t(pixel) * channels]);
    y[at] = sum * (1.0f / float(pixels));
}

// Every pixel gets its share.
template <class T>
__device__ void mean_backward(const float *grad, T *dx, int64_t count, int channels, int pixels) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int64_t picture = at / channels / pixels;
    dx[at] = narrow<T>(grad[picture * channels + at % channels] * (1.0f / float(pixels)));
}

struct Window {
    int kernel, stride, padding;
    int h, w, h_out, w_out;
};

// Of equal numbers the first counts, row by row; NaN is greater than all.
template <class T>
__device__ void max_forward(const T *x, T *y, uint8_t *places, int64_t count, int channels, Window of) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int channel = at % channels, column = at / channels % of.w_out, row = at / channels / of.w_out % of.h_out;
    x += at / channels / of.w_out / of.h_out * of.h * of.w * channels + channel;
    bool first = true;
    T best = {};
    uint8_t from = 0;
    for (int place = 0; place < of.kernel * of.kernel; ++place) {
        const int i = row * of.stride + place / of.kernel - of.padding, j = column * of.stride + place % of.kernel - of.padding;
        if (i < 0 || i >= of.h || j < 0 || j >= of.w) continue;
        const T number = x[(int64_t(i) * of.w + j) * channels];
        const float wide = widen(number);
        if (first || wide > widen(best) || wide != wide) {
            best = number;
            from = place;
            first = false;
        }
    }
    y[at] = best;
    places[at] = from;
}

// Every number of the map asks the windows that contain it, in their order, whether it was the greatest: no two threads write one sum.
template <class T>
__device__ void max_backward(const T *grad, const uint8_t *places, T *dx, int64_t count, int channels, Window of) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= count) return;
    const int channel = at % channels, column = at / channels % of.w, row = at / channels / of.w % of.h;
    const int64_t output = at / channels / of.w / of.h * of.h_out * of.w_out;
    float sum = 0;
    const int last_row = min((row + of.padding) / of.stride, of.h_out - 1), last_column = min((column + of.padding) / of.stride, of.w_out - 1);
    for (int i = max(0, (row + of.padding - of.kernel) / of.stride); i <= last_row; ++i) {
        for (int j = max(0, (column + of.padding - of.kernel) / of.stride); j <= last_column; ++j) {
            const int down = row + of.padding - i * of.stride, across = column + of.padding - j * of.stride;
            if (down < 0 || down >= of.kernel || across < 0 || across >= of.kernel) continue;
            const int64_t place = (output + int64_t(i) * of.w_out + j) * channels + channel;
            if (places[place] == down * of.kernel + across) sum += widen(grad[place]);
        }
    }
    dx[at] = narrow<T>(sum);
}

#define OF_TYPE(T, suffix)                                                                                                              \
    extern "C" __global__ void pooling_mean_forward_##suffix(const T *x, float *y, int64_t count, int channels, int pixels) {           \
        mean_forward<T>(x, y, count, channels, pixels);                                                                                 \
    }                                                                                                                                   \
    HOST_KERNEL(pooling_mean_forward_##suffix)                                                                                          \
    extern "C" __global__ void pooling_mean_backward_##suffix(const float *grad, T *dx, int64_t count, int channels, int pixels) {      \
        mean_backward<T>(grad, dx, count, channels, pixels);                                                                            \
    }                                                                                                                                   \
    HOST_KERNEL(pooling_mean_backward_##suffix)                                                                                         \
    extern "C" __global__ void pooling_max_forward_##suffix(const T *x, T *y, uint8_t *places, int64_t count, int channels, int kernel, \
                                                            int stride, int padding, int h, int w, int h_out, int w_out) {              \
        max_forward<T>(x, y, places, count, channels, {kernel, stride, padding, h, w, h_out, w_out});                                   \
    }                                                                                                                                   \
    HOST_KERNEL(pooling_max_forward_##suffix)                                                                                           \
    extern "C" __global__ void pooling_max_backward_##suffix(const T *grad, const uint8_t *places, T *dx, int64_t count, int channels,  \
                                                             int kernel, int stride, int padding, int h, int w, int h_out, int w_out) { \
        max_backward<T>(grad, places, dx, count, channels, {kernel, stride, padding, h, w, h_out, w_out});                              \
    }                                                                                                                                   \
    HOST_KERNEL(pooling_max_backward_##suffix)

OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
OF_TYPE(f16, f16)
