// Batch norm on NHWC maps: y = relu(x · scale + shift + residual), its statistics and its gradients. See cuda.rs for who calls what.
//
// A map is rows of channels. A block is threads.x packs of channels times threads.y rows: neighbours read neighbours. Sums over rows
// are f32 in a thread, over a few hundred rows, and then f64, always in the same order: no atomics, the same bits every time.
//
// Memory moved per number of a map of b bytes (f32 4, bf16 2): moments b, normalise 2b (3b with residual); backward: sums 2b (4b),
// input 3b.
#include "../cuda/device.cuh"

constexpr int THREADS = 256;

// What `of_group` holds for every channel of a group, one array after the other.
enum Of { MEAN, VAR, SCALE, SHIFT, ARRAYS };

// Adds up `a` and `b` of all rows of a block and writes them as `[Σ a, Σ b]` of the block's channels.
template <int N>
__device__ void write_block_sums(const float (&a)[N], const float (&b)[N], float *partial, int channels, bool inside) {
    __shared__ float shared[2 * N * THREADS];
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (int i = 0; i < N; ++i) {
        shared[i * THREADS + thread] = a[i];
        shared[(N + i) * THREADS + thread] = b[i];
    }
    __syncthreads();
    if (threadIdx.y > 0 || !inside) return;
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    float *to = partial + (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * 2 * channels + channel;
    for (int i = 0; i < N; ++i) {
        float sum_a = 0, sum_b = 0;
        for (int row = 0; row < blockDim.y; ++row) {
            sum_a += shared[i * THREADS + row * blockDim.x + threadIdx.x];
            sum_b += shared[(N + i) * THREADS + row * blockDim.x + threadIdx.x];
        }
        to[i] = sum_a;
        to[channels + i] = sum_b;
    }
}

// partial[group][chunk] = [Σ (x - k), Σ (x - k)²] per channel, where k is the first row of the group: numbers that lie far from zero
// and close together keep their variance in f32.
template <class T, int N>
__device__ void moments(const T *x, float *partial, int64_t rows, int channels) {
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    const bool inside = channel < channels;
    float sum[N] = {}, square[N] = {};
    if (inside) {
        x += blockIdx.z * rows * channels + channel;
        const Pack<T, N> first = load<N>(x);
        const int64_t step = int64_t(gridDim.y) * blockDim.y;
#pragma unroll 4
        for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
            const Pack<T, N> pack = load<N>(x + row * channels);
            for (int i = 0; i < N; ++i) {
                const float number = widen(pack.numbers[i]) - widen(first.numbers[i]);
                sum[i] += number;
                square[i] += number * number;
            }
        }
    }
    write_block_sums<N>(sum, square, partial, channels, inside);
}

// Threads that fold the chunks of a channel, and channels of a block that folds: as many loads are on their way at once.
constexpr int FOLDERS = 16, FOLDED = 32;

// Folds the chunks of `write_block_sums` of a channel of `group`: `a` and `b` are their sums in the first row of threads.
__device__ void fold(const float *partial, int channels, int chunks, int group, double &a, double &b) {
    __shared__ double shared[2][FOLDERS][FOLDED];
    const int channel = blockIdx.x * FOLDED + threadIdx.x;
    a = b = 0;
    if (channel < channels) {
        partial += int64_t(group) * chunks * 2 * channels + channel;
#pragma unroll 8
        for (int chunk = threadIdx.y; chunk < chunks; chunk += FOLDERS) {
            const float *of_chunk = partial + int64_t(chunk) * 2 * channels;
            a += of_chunk[0];
            b += of_chunk[channels];
        }
    }
    // Whoever folded before has read what is written now.
    __syncthreads();
    shared[0][threadIdx.y][threadIdx.x] = a;
    shared[1][threadIdx.y][threadIdx.x] = b;
    __syncthreads();
    if (threadIdx.y > 0) return;
    for (int folder = 1; folder < FOLDERS; ++folder) {
        a += shared[0][folder][threadIdx.x];
        b += shared[1][folder][threadIdx.x];
    }
}

// Folds the chunks of `moments` into sums[group] = [Σ x, Σ x²] (if FOLD), and makes of these what normalises the group (if FINISH).
// Between the two the sums of several processes are added up.
enum Phase { FOLD = 1, FINISH = 2 };

template <class T>
__device__ void statistics(const T *x, const float *partial, double *sums, float *of_group, const float *weight,
                           const float *bias, int64_t rows, int channels, int chunks, double count, double eps, int phase) {
    const int channel = blockIdx.x * FOLDED + threadIdx.x, group = blockIdx.y;
    double sum = 0, square = 0;
    if (phase & FOLD) fold(partial, channels, chunks, group, sum, square);
    if (threadIdx.y > 0 || channel >= channels) return;
    double *own = sums + int64_t(group) * 2 * channels + channel;
    if (phase & FOLD) {
        const double k = widen(x[group * rows * channels + channel]), n = double(rows);
        own[0] = sum + n * k;
        own[channels] = square + 2 * k * sum + n * k * k;
    }
    if (phase & FINISH) {
        const double mean = own[0] / count;
        const double var = fmax(own[channels] / count - mean * mean, 0.0);
        const double scale = weight[channel] / sqrt(var + eps);
        float *to = of_group + int64_t(group) * ARRAYS * channels + channel;
        to[MEAN * channels] = float(mean);
        to[VAR * channels] = float(var);
        to[SCALE * channels] = float(scale);
        to[SHIFT * channels] = float(bias[channel] - mean * scale);
    }
}

// What running statistics do about those of every group, in their order: `running += momentum · (batch - running)`. With the report of a
// step, see ../update/report.rs, nothing unless the step was made.
extern "C" __global__ void batch_norm_follow(float *running_mean, float *running_var, int64_t *batches, const float *of_group,
                                             const double *report, int groups, int channels, double count, double momentum) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= channels || (report && report[REPORT_OUTCOME] != REPORT_APPLIED)) return;
    if (channel == 0) *batches += groups;
    const float keep = float(1.0 - momentum), follow = float(momentum);
    const double unbiased = count / (count - 1.0);
    float mean = running_mean[channel], var = running_var[channel];
    for (int group = 0; group < groups; ++group, of_group += ARRAYS * channels) {
        mean = mean * keep + of_group[MEAN * channels + channel] * follow;
        var = var * keep + float(of_group[VAR * channels + channel] * unbiased) * follow;
    }
    running_mean[channel] = mean;
    running_var[channel] = var;
}

template <class T, int N>
__device__ void normalise(const T *x, const T *residual, T *y, const float *of_group, int64_t rows, int channels, int relu) {
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (channel >= channels) return;
    of_group += blockIdx.z * ARRAYS * channels + channel;
    float scale[N], shift[N];
    for (int i = 0; i < N; ++i) {
        scale[i] = of_group[SCALE * channels + i];
        shift[i] = of_group[SHIFT * channels + i];
    }
    const int64_t base = blockIdx.z * rows * channels + channel, step = int64_t(gridDim.y) * blockDim.y;
#pragma unroll 2
    for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
        const int64_t at = base + row * channels;
        const Pack<T, N> from = load<N>(x + at);
        Pack<T, N> added = {}, to;
        if (residual) added = load<N>(residual + at);
        for (int i = 0; i < N; ++i) {
            float number = fmaf(widen(from.numbers[i]), scale[i], shift[i]);
            if (residual) number += widen(added.numbers[i]);
            // NaN stays: a broken network must show.
            to.numbers[i] = narrow<T>(relu && number < 0 ? 0.0f : number);
        }
        store<N>(y + at, to);
    }
}

// Where the ReLU behind gave zero, no gradient passes.
enum Mask { NONE, OUTPUT, AFFINE };

// Whether the gradient of one number passes the ReLU: its output `y` says so, or its input, which is normalised again.
template <class T>
__device__ __forceinline__ bool passes(int mask, float x, T y, float scale, float shift) {
    if (mask == OUTPUT) return !(widen(y) <= 0);
    return mask == NONE || !(fmaf(x, scale, shift) <= 0);
}

// partial[group][chunk] = [Σ g, Σ g · (x - mean)] per channel, where g is the gradient that passes the ReLU; with `passed` it is
// written there: it is the gradient of the residual.
template <class T, int N>
__device__ void gradient_sums(const T *x, const T *y, const T *grad, T *passed, const float *of_group, float *partial, int64_t rows,
                              int channels, int mask) {
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    const bool inside = channel < channels;
    float sum[N] = {}, product[N] = {};
    if (inside) {
        of_group += blockIdx.z * ARRAYS * channels + channel;
        float mean[N], scale[N], shift[N];
        for (int i = 0; i < N; ++i) {
            mean[i] = of_group[MEAN * channels + i];
            scale[i] = of_group[SCALE * channels + i];
            shift[i] = of_group[SHIFT * channels + i];
        }
        const int64_t base = blockIdx.z * rows * channels + channel, step = int64_t(gridDim.y) * blockDim.y;
#pragma unroll 2
        for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
            const int64_t at = base + row * channels;
            const Pack<T, N> from = load<N>(x + at), gradient = load<N>(grad + at);
            Pack<T, N> output = {}, through;
            if (mask == OUTPUT) output = load<N>(y + at);
            for (int i = 0; i < N; ++i) {
                const float number = widen(from.numbers[i]);
                const bool pass = passes(mask, number, output.numbers[i], scale[i], shift[i]);
                const float g = pass ? widen(gradient.numbers[i]) : 0.0f;
                through.numbers[i] = narrow<T>(g);
                sum[i] += g;
                product[i] = fmaf(g, number - mean[i], product[i]);
            }
            if (passed) store<N>(passed + at, through);
        }
    }
    write_block_sums<N>(sum, product, partial, channels, inside);
}

// Folds the chunks of `gradient_sums` into sums[group], and makes of these the gradients of weight and bias, which are of this process's own
// sums over all groups.
extern "C" __global__ void batch_norm_fold_gradients(const float *partial, double *sums, const float *of_group, float *weight_grad,
                                                     float *bias_grad, int channels, int groups, int chunks, double eps) {
    const int channel = blockIdx.x * FOLDED + threadIdx.x;
    double weight = 0, bias = 0;
    for (int group = 0; group < groups; ++group) {
        double sum, product;
        fold(partial, channels, chunks, group, sum, product);
        if (threadIdx.y > 0 || channel >= channels) continue;
        sums[int64_t(group) * 2 * channels + channel] = sum;
        sums[(int64_t(group) * 2 + 1) * channels + channel] = product;
        const double var = of_group[(int64_t(group) * ARRAYS + VAR) * channels + channel];
        bias += sum;
        weight += product / sqrt(var + eps);
    }
    if (threadIdx.y > 0 || channel >= channels) return;
    weight_grad[channel] = float(weight);
    bias_grad[channel] = float(bias);
}

// dx = g · scale + (x - mean) · by_x + constant, with g masked as in `gradient_sums`; `dx` may be `grad`.
template <class T, int N>
__device__ void input_gradient(const T *x, const T *grad, T *dx, const float *of_group, const double *sums, int64_t rows, int channels,
                               double count, double eps, int mask) {
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * N;
    if (channel >= channels) return;
    of_group += blockIdx.z * ARRAYS * channels + channel;
    sums += blockIdx.z * 2 * channels + channel;
    float mean[N], scale[N], shift[N], by_x[N], constant[N];
    for (int i = 0; i < N; ++i) {
        mean[i] = of_group[MEAN * channels + i];
        scale[i] = of_group[SCALE * channels + i];
        shift[i] = of_group[SHIFT * channels + i];
        const double var = of_group[VAR * channels + i];
        by_x[i] = float(-scale[i] / (var + eps) * sums[channels + i] / count);
        constant[i] = float(-scale[i] * sums[i] / count);
    }
    const int64_t base = blockIdx.z * rows * channels + channel, step = int64_t(gridDim.y) * blockDim.y;
#pragma unroll 2
    for (int64_t row = blockIdx.y * blockDim.y + threadIdx.y; row < rows; row += step) {
        const int64_t at = base + row * channels;
        const Pack<T, N> from = load<N>(x + at), gradient = load<N>(grad + at);
        Pack<T, N> to;
        for (int i = 0; i < N; ++i) {
            const float number = widen(from.numbers[i]);
            const float g = passes(mask, number, T{}, scale[i], shift[i]) ? widen(gradient.numbers[i]) : 0.0f;
            to.numbers[i] = narrow<T>(fmaf(g, scale[i], fmaf(number - mean[i], by_x[i], constant[i])));
        }
        store<N>(dx + at, to);
    }
}

#define OF_PACKS(T, N, suffix)                                                                                                          \
    extern "C" __global__ void batch_norm_moments_##suffix(const T *x, float *partial, int64_t rows, int channels) {                    \
        moments<T, N>(x, partial, rows, channels);                                                                                      \
    }                                                                                                                                   \
    HOST_KERNEL(batch_norm_moments_##suffix)                                                                                            \
    extern "C" __global__ void batch_norm_normalise_##suffix(const T *x, const T *residual, T *y, const float *of_group, int64_t rows,  \
                                                             int channels, int relu) {                                                  \
        normalise<T, N>(x, residual, y, of_group, rows, channels, relu);                                                                \
    }                                                                                                                                   \
    HOST_KERNEL(batch_norm_normalise_##suffix)                                                                                          \
    extern "C" __global__ void batch_norm_gradient_sums_##suffix(const T *x, const T *y, const T *grad, T *passed,                      \
                                                                 const float *of_group, float *partial, int64_t rows, int channels,     \
                                                                 int mask) {                                                            \
        gradient_sums<T, N>(x, y, grad, passed, of_group, partial, rows, channels, mask);                                               \
    }                                                                                                                                   \
    HOST_KERNEL(batch_norm_gradient_sums_##suffix)                                                                                      \
    extern "C" __global__ void batch_norm_input_gradient_##suffix(const T *x, const T *grad, T *dx, const float *of_group,              \
                                                                  const double *sums, int64_t rows, int channels, double count,         \
                                                                  double eps, int mask) {                                               \
        input_gradient<T, N>(x, grad, dx, of_group, sums, rows, channels, count, eps, mask);                                            \
    }                                                                                                                                   \
    HOST_KERNEL(batch_norm_input_gradient_##suffix)

#define OF_TYPE(T, name)                                                                                                                \
    OF_PACKS(T, 1, name##_one)                                                                                                          \
    OF_PACKS(T, WIDEST<T>, name##_pack)                                                                                                 \
    extern "C" __global__ void batch_norm_statistics_##name(const T *x, const float *partial, double *sums, float *of_group,            \
                                                            const float *weight, const float *bias, int64_t rows, int channels,         \
                                                            int chunks, double count, double eps, int phase) {                          \
        statistics<T>(x, partial, sums, of_group, weight, bias, rows, channels, chunks, count, eps, phase);                             \
    }                                                                                                                                   \
    HOST_KERNEL(batch_norm_statistics_##name)

OF_TYPE(float, f32)
OF_TYPE(bf16, bf16)
OF_TYPE(f16, f16)
HOST_KERNEL(batch_norm_follow)
HOST_KERNEL(batch_norm_fold_gradients)
