// cuDNN as plain loops: libcudnn.so.9. Convolutions of two dimensions, forward and backward, in all layouts and types; sums in f32 or f64.
//
// What the real library only recommends is a must here. Sizes must fit together, tensors must lie within an allocation of the device, the
// workspace must be as large as was said, and is written all over. The first algorithm that the heuristics offer for a gradient gives
// other bits every time, by one in a thousand: callers that do not look at its determinism are found out. So does the one that is measured
// to be the fastest, for which the output is left full of NaN. Where the caller allows TF32, factors are rounded to it.
#include <cudnn.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <mutex>

#include "numbers.hpp"
#include "stand_in.hpp"

using namespace stand_in;

namespace {

constexpr int MOST_DIMENSIONS = 8;

// Dimensions come as n, c, h, w wherever they lie in memory.
struct Tensor {
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    // 0 until it is set.
    int dimensions = 0;
    int sizes[MOST_DIMENSIONS] = {};
    long long strides[MOST_DIMENSIONS] = {};

    void set_packed(bool channels_last) {
        long long stride = 1;
        if (channels_last) {
            strides[1] = stride;
            stride *= sizes[1];
        }
        for (int i = dimensions - 1; i >= 0; --i) {
            if (channels_last && i == 1) continue;
            strides[i] = stride;
            stride *= sizes[i];
        }
    }

    bool is_sensible() const {
        for (int i = 0; i < dimensions; ++i) {
            if (sizes[i] < 1 || strides[i] < 1) return false;
        }
        return dimensions >= 4;
    }

    size_t element() const {
        return type == CUDNN_DATA_DOUBLE ? 8 : type == CUDNN_DATA_FLOAT ? 4 : 2;
    }

    size_t bytes() const {
        size_t last = 0;
        for (int i = 0; i < dimensions; ++i) last += size_t(sizes[i] - 1) * size_t(strides[i]);
        return (last + 1) * element();
    }
};

}  // namespace

// The opaque types of cudnn.h.
struct cudnnContext {
    cudaStream_t stream = nullptr;
};
struct cudnnTensorStruct : Tensor {};
struct cudnnFilterStruct : Tensor {
    cudnnTensorFormat_t format = CUDNN_TENSOR_NCHW;
};
struct cudnnConvolutionStruct {
    int dimensions = 0;
    int padding[2] = {}, stride[2] = {}, dilation[2] = {};
    cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    cudnnDataType_t compute = CUDNN_DATA_FLOAT;
    cudnnMathType_t math = CUDNN_DEFAULT_MATH;
    int groups = 1;
};

namespace {

bool is_known(cudnnDataType_t type) {
    return type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_DOUBLE || type == CUDNN_DATA_HALF || type == CUDNN_DATA_BFLOAT16;
}

int output_size(const cudnnConvolutionStruct &window, int axis, int input, int kernel) {
    return 1 + (input + 2 * window.padding[axis] - ((kernel - 1) * window.dilation[axis] + 1)) / window.stride[axis];
}

// Whether x, w and y are what a convolution makes of each other.
cudnnStatus_t check(const char *function, cudnnHandle_t handle, const Tensor *x, const cudnnFilterStruct *w, const Tensor *y,
                    const cudnnConvolutionStruct *window) {
    if (!handle || !x || !w || !y || !window) {
        cuStandInSay(function, "a handle or descriptor is null");
        return CUDNN_STATUS_BAD_PARAM_NULL_POINTER;
    }
    if (!x->dimensions || !w->dimensions || !y->dimensions || !window->dimensions) {
        cuStandInSay(function, "a descriptor was not set");
        return CUDNN_STATUS_BAD_PARAM;
    }
    if (x->dimensions != 4 || w->dimensions != 4 || y->dimensions != 4 || window->dimensions != 2 || window->groups != 1 ||
        window->mode != CUDNN_CROSS_CORRELATION) {
        cuStandInSay(function, "only cross-correlations of two dimensions and one group are supported here");
        return CUDNN_STATUS_NOT_SUPPORTED;
    }
    if (x->type != w->type || x->type != y->type) {
        cuStandInSay(function, "x, w and y are of types %d, %d and %d", int(x->type), int(w->type), int(y->type));
        return CUDNN_STATUS_BAD_PARAM;
    }
    if (window->compute != (x->type == CUDNN_DATA_DOUBLE ? CUDNN_DATA_DOUBLE : CUDNN_DATA_FLOAT)) {
        cuStandInSay(function, "compute type %d does not go with data type %d: 16 bits want sums in f32", int(window->compute),
                     int(x->type));
        return CUDNN_STATUS_BAD_PARAM;
    }
    const int *in = x->sizes, *kernel = w->sizes, *out = y->sizes;
    const int height = output_size(*window, 0, in[2], kernel[2]), width = output_size(*window, 1, in[3], kernel[3]);
    if (in[1] != kernel[1] || out[0] != in[0] || out[1] != kernel[0] || out[2] != height || out[3] != width) {
        cuStandInSay(function, "x (%d, %d, %d, %d) and w (%d, %d, %d, %d) give y (%d, %d, %d, %d), not (%d, %d, %d, %d)", in[0], in[1],
                     in[2], in[3], kernel[0], kernel[1], kernel[2], kernel[3], in[0], kernel[0], height, width, out[0], out[1], out[2],
                     out[3]);
        return CUDNN_STATUS_BAD_PARAM;
    }
    if (w->format == CUDNN_TENSOR_NHWC && (x->strides[1] != 1 || y->strides[1] != 1)) {
        cuStandInSay(function, "w is NHWC, but x or y is not");
        return CUDNN_STATUS_NOT_SUPPORTED;
    }
    return CUDNN_STATUS_SUCCESS;
}

bool is_there(const char *function, const char *name, const Tensor &tensor, const void *numbers) {
    if (!numbers || reinterpret_cast<uintptr_t>(numbers) % tensor.element()) {
        cuStandInSay(function, "%s is null or not aligned: %p", name, numbers);
        return false;
    }
    return cuStandInHolds(function, name, numbers, tensor.bytes());
}

bool overlap(const Tensor &a, const void *a_numbers, const Tensor &b, const void *b_numbers) {
    const auto from_a = reinterpret_cast<uintptr_t>(a_numbers), from_b = reinterpret_cast<uintptr_t>(b_numbers);
    return from_a < from_b + b.bytes() && from_b < from_a + a.bytes();
}

// A tensor where its numbers are.
struct Placed {
    const char *name;
    const Tensor *form;
    const void *numbers;
};

// Whether all are there, and the output lies over neither of the others.
bool are_apart(const char *function, Placed output, Placed a, Placed b) {
    for (const Placed &one : {a, b, output}) {
        if (!is_there(function, one.name, *one.form, one.numbers)) return false;
    }
    for (const Placed &one : {a, b}) {
        if (!overlap(*one.form, one.numbers, *output.form, output.numbers)) continue;
        cuStandInSay(function, "%s lies over %s", output.name, one.name);
        return false;
    }
    return true;
}

// Takes the workspace, as the real library does.
bool take_workspace(const char *function, size_t needed, void *workspace, size_t bytes) {
    if (needed == 0) return true;
    if (!workspace || bytes < needed) {
        cuStandInSay(function, "the workspace has %zu bytes at %p, and the algorithm needs %zu", bytes, workspace, needed);
        return false;
    }
    if (!cuStandInHolds(function, "the workspace", workspace, needed)) return false;
    std::memset(workspace, 0xff, needed);
    return true;
}

// ---- Algorithms

struct Algorithm {
    int number;
    bool is_supported, is_deterministic;
    // Bytes of workspace: so many, and so many for every number of w.
    size_t fixed, per_weight;
    // What it is measured to take.
    float milliseconds;

    size_t workspace(const Tensor &w) const {
        return fixed + per_weight * size_t(w.sizes[0]) * w.sizes[1] * w.sizes[2] * w.sizes[3];
    }
};

// As the heuristics offer them, best first.
constexpr Algorithm FORWARD[] = {
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, true, true, 1024, 0, 0.8f},
    {CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM, true, true, 0, 0, 0.4f},
    {CUDNN_CONVOLUTION_FWD_ALGO_FFT, false, true, 0, 0, 0.1f},
};
constexpr Algorithm DATA[] = {
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, true, false, 0, 0, 0.4f},
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, true, true, 512, 4, 0.8f},
    {CUDNN_CONVOLUTION_BWD_DATA_ALGO_WINOGRAD, false, true, 0, 0, 0.1f},
};
constexpr Algorithm FILTER[] = {
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, true, false, 0, 0, 0.8f},
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, true, true, 256, 4, 1.6f},
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, true, false, 128, 0, 0.4f},
    {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT, false, true, 0, 0, 0.1f},
};

template <size_t N>
const Algorithm *find(const char *function, const Algorithm (&algorithms)[N], int number) {
    for (const Algorithm &algorithm : algorithms) {
        if (algorithm.number == number && algorithm.is_supported) return &algorithm;
    }
    cuStandInSay(function, "algorithm %d is not supported", number);
    return nullptr;
}

template <size_t N, class Perf>
cudnnStatus_t offer(const char *function, const Algorithm (&algorithms)[N], const Tensor &w, cudnnMathType_t math, int requested,
                    int *returned, Perf *perf) {
    if (requested < 1 || !returned || !perf) {
        cuStandInSay(function, "there is no room for an answer");
        return CUDNN_STATUS_BAD_PARAM;
    }
    *returned = std::min(requested, int(N));
    for (int i = 0; i < *returned; ++i) {
        const Algorithm &algorithm = algorithms[i];
        std::memset(&perf[i], 0, sizeof perf[i]);
        perf[i].algo = decltype(perf[i].algo)(algorithm.number);
        perf[i].status = algorithm.is_supported ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_NOT_SUPPORTED;
        perf[i].time = -1;
        perf[i].memory = algorithm.workspace(w);
        perf[i].determinism = algorithm.is_deterministic ? CUDNN_DETERMINISTIC : CUDNN_NON_DETERMINISTIC;
        perf[i].mathType = math;
    }
    return CUDNN_STATUS_SUCCESS;
}

template <size_t N>
cudnnStatus_t workspace_of(const char *function, const Algorithm (&algorithms)[N], int number, const Tensor &w, size_t *bytes) {
    const Algorithm *algorithm = find(function, algorithms, number);
    if (!algorithm) return CUDNN_STATUS_NOT_SUPPORTED;
    *bytes = algorithm->workspace(w);
    return CUDNN_STATUS_SUCCESS;
}

// A factor for what is another number every time, 1 but for as much as `most`.
double noise(double most) {
    static std::mutex lock;
    static uint64_t state = uint64_t(std::chrono::steady_clock::now().time_since_epoch().count()) | 1;
    std::lock_guard guard(lock);
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return 1 + most * (double(state >> 11) * 0x1p-52 - 1);
}

// ---- Numbers of a tensor, as T

template <class T>
T read(const Tensor &tensor, const void *numbers, size_t at) {
    switch (tensor.type) {
    case CUDNN_DATA_DOUBLE: return T(static_cast<const double *>(numbers)[at]);
    case CUDNN_DATA_FLOAT: return T(static_cast<const float *>(numbers)[at]);
    case CUDNN_DATA_HALF: return T(float(static_cast<const F16 *>(numbers)[at]));
    default: return T(float(static_cast<const Bf16 *>(numbers)[at]));
    }
}

template <class T>
void write(const Tensor &tensor, void *numbers, size_t at, T number) {
    switch (tensor.type) {
    case CUDNN_DATA_DOUBLE: static_cast<double *>(numbers)[at] = double(number); break;
    case CUDNN_DATA_FLOAT: static_cast<float *>(numbers)[at] = float(number); break;
    case CUDNN_DATA_HALF: static_cast<F16 *>(numbers)[at] = F16(float(number)); break;
    default: static_cast<Bf16 *>(numbers)[at] = Bf16(float(number));
    }
}

// Calls `with(place in packed h, w, c; place in memory)` for the numbers of image, or kernel, n.
template <class With>
void for_each(const Tensor &tensor, int n, With with) {
    size_t packed = 0;
    for (int h = 0; h < tensor.sizes[2]; ++h) {
        for (int w = 0; w < tensor.sizes[3]; ++w) {
            const size_t start = size_t(n * tensor.strides[0] + h * tensor.strides[2] + w * tensor.strides[3]);
            for (int c = 0; c < tensor.sizes[1]; ++c) with(packed++, start + size_t(c * tensor.strides[1]));
        }
    }
}

template <class T>
void gather(const Tensor &tensor, const void *numbers, int n, bool round, T *to) {
    for_each(tensor, n, [&](size_t packed, size_t at) {
        const T number = read<T>(tensor, numbers, at);
        to[packed] = round ? T(tf32(float(number))) : number;
    });
}

// number = alpha · result + beta · number; with a beta of 0 it is not read.
template <class T>
void scatter(const Tensor &tensor, void *numbers, int n, const T *from, T alpha, T beta, bool is_noisy) {
    for_each(tensor, n, [&](size_t packed, size_t at) {
        T number = alpha * from[packed];
        if (is_noisy) number = T(number * noise(1e-3));
        if (beta != T(0)) number += beta * read<T>(tensor, numbers, at);
        write(tensor, numbers, at, number);
    });
}

// ---- Measuring

// Offers all algorithms by the time that they take, which is another every time, each with the way to multiply that the caller set and
// with the default one, which is faster and rounds f32 to TF32. What needs more workspace than there is comes last, with what is not
// supported. The output is NaN afterwards.
template <size_t N, class Perf>
cudnnStatus_t measure(const char *function, const Algorithm (&algorithms)[N], const Tensor &w, cudnnMathType_t math, const Tensor &output,
                      void *numbers, int requested, int *returned, Perf *perf, void *workspace, size_t bytes) {
    if (bytes && !take_workspace(function, bytes, workspace, bytes)) return CUDNN_STATUS_BAD_PARAM;
    Perf all[2 * N];
    int count;
    if (const cudnnStatus_t status = offer(function, algorithms, w, math, N, &count, all)) return status;
    if (const cudnnStatus_t status = offer(function, algorithms, w, CUDNN_DEFAULT_MATH, N, &count, all + N)) return status;
    if (requested < 1 || !returned || !perf) {
        cuStandInSay(function, "there is no room for an answer");
        return CUDNN_STATUS_BAD_PARAM;
    }
    for (size_t i = 0; i < 2 * N; ++i) {
        if (all[i].status == CUDNN_STATUS_SUCCESS && all[i].memory > bytes) all[i].status = CUDNN_STATUS_ALLOC_FAILED;
        if (all[i].status != CUDNN_STATUS_SUCCESS) continue;
        all[i].time = float(algorithms[i % N].milliseconds * noise(0.1)) * (i < N ? 1.0f : 0.5f);
    }
    std::sort(all, all + 2 * N, [](const Perf &a, const Perf &b) {
        return a.status == CUDNN_STATUS_SUCCESS && (b.status != CUDNN_STATUS_SUCCESS || a.time < b.time);
    });
    *returned = std::min(requested, int(2 * N));
    std::copy_n(all, *returned, perf);
    for (int n = 0; n < output.sizes[0]; ++n) {
        for_each(output, n, [&](size_t, size_t at) { write(output, numbers, at, std::numeric_limits<float>::quiet_NaN()); });
    }
    return CUDNN_STATUS_SUCCESS;
}

// ---- Convolutions: one image at a time, as products of matrices.

struct Problem {
    const Tensor &x, &y;
    const cudnnFilterStruct &w;
    const cudnnConvolutionStruct &window;

    size_t c_in() const { return size_t(x.sizes[1]); }
    size_t c_out() const { return size_t(y.sizes[1]); }
    size_t x_size() const { return c_in() * x.sizes[2] * x.sizes[3]; }
    size_t positions() const { return size_t(y.sizes[2]) * y.sizes[3]; }
    // Numbers that a number of y is made of.
    size_t taps() const { return c_in() * w.sizes[2] * w.sizes[3]; }
    bool rounds() const { return x.type == CUDNN_DATA_FLOAT && window.math != CUDNN_FMA_MATH; }

    // Calls `with(position of y, tap, place in packed x)` for all channels that meet, unless they lie in the padding.
    template <class With>
    void for_each_meeting(With with) const {
        size_t position = 0;
        for (int out_h = 0; out_h < y.sizes[2]; ++out_h) {
            for (int out_w = 0; out_w < y.sizes[3]; ++out_w, ++position) {
                for (int tap_h = 0; tap_h < w.sizes[2]; ++tap_h) {
                    const int h = out_h * window.stride[0] - window.padding[0] + tap_h * window.dilation[0];
                    if (h < 0 || h >= x.sizes[2]) continue;
                    for (int tap_w = 0; tap_w < w.sizes[3]; ++tap_w) {
                        const int in_w = out_w * window.stride[1] - window.padding[1] + tap_w * window.dilation[1];
                        if (in_w < 0 || in_w >= x.sizes[3]) continue;
                        with(position, (size_t(tap_h) * w.sizes[3] + tap_w) * c_in(), (size_t(h) * x.sizes[3] + in_w) * c_in());
                    }
                }
            }
        }
    }
};

// weights[k][tap]
template <class T>
std::vector<T> weights_of(const Problem &problem, const void *w) {
    std::vector<T> weights(problem.c_out() * problem.taps());
    for (size_t k = 0; k < problem.c_out(); ++k) gather(problem.w, w, int(k), problem.rounds(), &weights[k * problem.taps()]);
    return weights;
}

template <class T>
std::vector<T> transposed(const std::vector<T> &matrix, size_t rows, size_t columns) {
    std::vector<T> to(matrix.size());
    for (size_t row = 0; row < rows; ++row) {
        for (size_t column = 0; column < columns; ++column) to[column * rows + row] = matrix[row * columns + column];
    }
    return to;
}

template <class T>
void forward(const Problem &problem, const void *x, const void *w, void *y, T alpha, T beta) {
    const size_t taps = problem.taps(), positions = problem.positions(), c_in = problem.c_in(), c_out = problem.c_out();
    const std::vector<T> weights = transposed(weights_of<T>(problem, w), c_out, taps);
    std::vector<T> image(problem.x_size()), columns(positions * taps), result(positions * c_out);
    for (int n = 0; n < problem.x.sizes[0]; ++n) {
        gather(problem.x, x, n, problem.rounds(), image.data());
        std::fill(columns.begin(), columns.end(), T(0));
        problem.for_each_meeting([&](size_t position, size_t tap, size_t at) {
            std::copy_n(&image[at], c_in, &columns[position * taps + tap]);
        });
        std::fill(result.begin(), result.end(), T(0));
        add_product(columns.data(), weights.data(), result.data(), positions, taps, c_out);
        scatter(problem.y, y, n, result.data(), alpha, beta, false);
    }
}

template <class T>
void backward_data(const Problem &problem, const void *w, const void *dy, void *dx, T alpha, T beta, bool is_noisy) {
    const size_t taps = problem.taps(), positions = problem.positions(), c_in = problem.c_in(), c_out = problem.c_out();
    const std::vector<T> weights = weights_of<T>(problem, w);
    std::vector<T> image(problem.x_size()), columns(positions * taps), gradient(positions * c_out);
    for (int n = 0; n < problem.x.sizes[0]; ++n) {
        gather(problem.y, dy, n, problem.rounds(), gradient.data());
        std::fill(columns.begin(), columns.end(), T(0));
        add_product(gradient.data(), weights.data(), columns.data(), positions, c_out, taps);
        std::fill(image.begin(), image.end(), T(0));
        problem.for_each_meeting([&](size_t position, size_t tap, size_t at) {
            for (size_t c = 0; c < c_in; ++c) image[at + c] += columns[position * taps + tap + c];
        });
        scatter(problem.x, dx, n, image.data(), alpha, beta, is_noisy);
    }
}

template <class T>
void backward_filter(const Problem &problem, const void *x, const void *dy, void *dw, T alpha, T beta, bool is_noisy) {
    const size_t taps = problem.taps(), positions = problem.positions(), c_in = problem.c_in(), c_out = problem.c_out();
    std::vector<T> image(problem.x_size()), columns(positions * taps), gradient(positions * c_out), sums(taps * c_out);
    for (int n = 0; n < problem.x.sizes[0]; ++n) {
        gather(problem.x, x, n, problem.rounds(), image.data());
        gather(problem.y, dy, n, problem.rounds(), gradient.data());
        std::fill(columns.begin(), columns.end(), T(0));
        problem.for_each_meeting([&](size_t position, size_t tap, size_t at) {
            for (size_t c = 0; c < c_in; ++c) columns[(tap + c) * positions + position] = image[at + c];
        });
        add_product(columns.data(), gradient.data(), sums.data(), taps, positions, c_out);
    }
    const std::vector<T> weights = transposed(sums, taps, c_out);
    for (size_t k = 0; k < c_out; ++k) scatter(problem.w, dw, int(k), &weights[k * taps], alpha, beta, is_noisy);
}

template <class T>
T scale(const void *number) {
    return *static_cast<const T *>(number);
}

cudnnStatus_t set_tensor(const char *function, Tensor *tensor) {
    if (is_known(tensor->type) && tensor->is_sensible()) return CUDNN_STATUS_SUCCESS;
    cuStandInSay(function, "the type %d, the %d sizes or the strides are not supported", int(tensor->type), tensor->dimensions);
    tensor->dimensions = 0;
    return CUDNN_STATUS_BAD_PARAM;
}

}  // namespace

extern "C" {

size_t cudnnGetVersion() {
    return 92100;
}

size_t cudnnGetCudartVersion() {
    return 13000;
}

cudnnStatus_t cudnnOpsVersionCheck() {
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnCnnVersionCheck() {
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnAdvVersionCheck() {
    return CUDNN_STATUS_SUCCESS;
}

const char *cudnnGetErrorString(cudnnStatus_t status) {
    switch (status) {
    case CUDNN_STATUS_SUCCESS: return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_BAD_PARAM_NULL_POINTER: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
    case CUDNN_STATUS_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    default: return "an error of cuDNN";
    }
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle) {
    *handle = new cudnnContext;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle) {
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetStream(cudnnHandle_t handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return CUDNN_STATUS_SUCCESS;
}

// ---- Descriptors

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t *tensor) {
    *tensor = new cudnnTensorStruct;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t tensor) {
    delete tensor;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t tensor, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c,
                                         int h, int w) {
    if (format != CUDNN_TENSOR_NCHW && format != CUDNN_TENSOR_NHWC) return CUDNN_STATUS_NOT_SUPPORTED;
    tensor->type = type;
    tensor->dimensions = 4;
    const int sizes[] = {n, c, h, w};
    std::copy_n(sizes, 4, tensor->sizes);
    tensor->set_packed(format == CUDNN_TENSOR_NHWC);
    return set_tensor("cudnnSetTensor4dDescriptor", tensor);
}

cudnnStatus_t cudnnSetTensorNdDescriptor(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int dimensions, const int *sizes,
                                         const int *strides) {
    if (dimensions < 4 || dimensions > MOST_DIMENSIONS) return CUDNN_STATUS_NOT_SUPPORTED;
    tensor->type = type;
    tensor->dimensions = dimensions;
    std::copy_n(sizes, dimensions, tensor->sizes);
    std::copy_n(strides, dimensions, tensor->strides);
    return set_tensor("cudnnSetTensorNdDescriptor", tensor);
}

cudnnStatus_t cudnnSetTensor4dDescriptorEx(cudnnTensorDescriptor_t tensor, cudnnDataType_t type, int n, int c, int h, int w, int n_stride,
                                           int c_stride, int h_stride, int w_stride) {
    const int sizes[] = {n, c, h, w}, strides[] = {n_stride, c_stride, h_stride, w_stride};
    return cudnnSetTensorNdDescriptor(tensor, type, 4, sizes, strides);
}

cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t *filter) {
    *filter = new cudnnFilterStruct;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t filter) {
    delete filter;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetFilterNdDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format, int dimensions,
                                         const int *sizes) {
    if (dimensions < 4 || dimensions > MOST_DIMENSIONS) return CUDNN_STATUS_NOT_SUPPORTED;
    if (format != CUDNN_TENSOR_NCHW && format != CUDNN_TENSOR_NHWC) return CUDNN_STATUS_NOT_SUPPORTED;
    filter->type = type;
    filter->format = format;
    filter->dimensions = dimensions;
    std::copy_n(sizes, dimensions, filter->sizes);
    filter->set_packed(format == CUDNN_TENSOR_NHWC);
    return set_tensor("cudnnSetFilterNdDescriptor", filter);
}

cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t filter, cudnnDataType_t type, cudnnTensorFormat_t format, int k, int c,
                                         int h, int w) {
    const int sizes[] = {k, c, h, w};
    return cudnnSetFilterNdDescriptor(filter, type, format, 4, sizes);
}

cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t *window) {
    *window = new cudnnConvolutionStruct;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t window) {
    delete window;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionNdDescriptor(cudnnConvolutionDescriptor_t window, int dimensions, const int *padding, const int *stride,
                                              const int *dilation, cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
    if (dimensions != 2) return CUDNN_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < 2; ++i) {
        if (padding[i] < 0 || stride[i] < 1 || dilation[i] < 1) {
            cuStandInSay("cudnnSetConvolutionNdDescriptor", "padding %d, stride %d, dilation %d", padding[i], stride[i], dilation[i]);
            return CUDNN_STATUS_BAD_PARAM;
        }
        window->padding[i] = padding[i];
        window->stride[i] = stride[i];
        window->dilation[i] = dilation[i];
    }
    window->dimensions = 2;
    window->mode = mode;
    window->compute = compute;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t window, int pad_h, int pad_w, int stride_h, int stride_w,
                                              int dilation_h, int dilation_w, cudnnConvolutionMode_t mode, cudnnDataType_t compute) {
    const int padding[] = {pad_h, pad_w}, stride[] = {stride_h, stride_w}, dilation[] = {dilation_h, dilation_w};
    return cudnnSetConvolutionNdDescriptor(window, 2, padding, stride, dilation, mode, compute);
}

cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t window, cudnnMathType_t math) {
    window->math = math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionMathType(cudnnConvolutionDescriptor_t window, cudnnMathType_t *math) {
    *math = window->math;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t window, int groups) {
    window->groups = groups;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolution2dForwardOutputDim(const cudnnConvolutionDescriptor_t window, const cudnnTensorDescriptor_t x,
                                                    const cudnnFilterDescriptor_t w, int *n, int *c, int *height, int *width) {
    *n = x->sizes[0];
    *c = w->sizes[0];
    *height = output_size(*window, 0, x->sizes[2], w->sizes[2]);
    *width = output_size(*window, 1, x->sizes[3], w->sizes[3]);
    return CUDNN_STATUS_SUCCESS;
}

// ---- Algorithms and what they need

cudnnStatus_t cudnnGetConvolutionForwardAlgorithmMaxCount(cudnnHandle_t, int *count) {
    *count = CUDNN_CONVOLUTION_FWD_ALGO_COUNT;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithmMaxCount(cudnnHandle_t, int *count) {
    *count = CUDNN_CONVOLUTION_BWD_DATA_ALGO_COUNT;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(cudnnHandle_t, int *count) {
    *count = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_COUNT;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                     const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t window,
                                                     const cudnnTensorDescriptor_t y, const int requested, int *returned,
                                                     cudnnConvolutionFwdAlgoPerf_t *perf) {
    const char *function = "cudnnGetConvolutionForwardAlgorithm_v7";
    const cudnnStatus_t status = check(function, handle, x, w, y, window);
    return status ? status : offer(function, FORWARD, *w, window->math, requested, returned, perf);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
                                                          const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t window,
                                                          const cudnnTensorDescriptor_t dx, const int requested, int *returned,
                                                          cudnnConvolutionBwdDataAlgoPerf_t *perf) {
    const char *function = "cudnnGetConvolutionBackwardDataAlgorithm_v7";
    const cudnnStatus_t status = check(function, handle, dx, w, dy, window);
    return status ? status : offer(function, DATA, *w, window->math, requested, returned, perf);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                            const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t window,
                                                            const cudnnFilterDescriptor_t dw, const int requested, int *returned,
                                                            cudnnConvolutionBwdFilterAlgoPerf_t *perf) {
    const char *function = "cudnnGetConvolutionBackwardFilterAlgorithm_v7";
    const cudnnStatus_t status = check(function, handle, x, dw, dy, window);
    return status ? status : offer(function, FILTER, *dw, window->math, requested, returned, perf);
}

cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                      const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t window,
                                                      const cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algorithm, size_t *bytes) {
    const char *function = "cudnnGetConvolutionForwardWorkspaceSize";
    const cudnnStatus_t status = check(function, handle, x, w, y, window);
    return status ? status : workspace_of(function, FORWARD, algorithm, *w, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
                                                           const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t window,
                                                           const cudnnTensorDescriptor_t dx, cudnnConvolutionBwdDataAlgo_t algorithm,
                                                           size_t *bytes) {
    const char *function = "cudnnGetConvolutionBackwardDataWorkspaceSize";
    const cudnnStatus_t status = check(function, handle, dx, w, dy, window);
    return status ? status : workspace_of(function, DATA, algorithm, *w, bytes);
}

cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                             const cudnnTensorDescriptor_t dy, const cudnnConvolutionDescriptor_t window,
                                                             const cudnnFilterDescriptor_t dw, cudnnConvolutionBwdFilterAlgo_t algorithm,
                                                             size_t *bytes) {
    const char *function = "cudnnGetConvolutionBackwardFilterWorkspaceSize";
    const cudnnStatus_t status = check(function, handle, x, dw, dy, window);
    return status ? status : workspace_of(function, FILTER, algorithm, *dw, bytes);
}

// ---- Measuring

cudnnStatus_t cudnnFindConvolutionForwardAlgorithmEx(cudnnHandle_t handle, const cudnnTensorDescriptor_t x_form, const void *x,
                                                     const cudnnFilterDescriptor_t w_form, const void *w,
                                                     const cudnnConvolutionDescriptor_t window, const cudnnTensorDescriptor_t y_form,
                                                     void *y, const int requested, int *returned, cudnnConvolutionFwdAlgoPerf_t *perf,
                                                     void *workspace, size_t bytes) {
    const char *function = "cudnnFindConvolutionForwardAlgorithmEx";
    if (const cudnnStatus_t status = check(function, handle, x_form, w_form, y_form, window)) return status;
    cuStandInCount(function);
    if (!are_apart(function, {"y", y_form, y}, {"x", x_form, x}, {"w", w_form, w})) return CUDNN_STATUS_BAD_PARAM;
    return measure(function, FORWARD, *w_form, window->math, *y_form, y, requested, returned, perf, workspace, bytes);
}

cudnnStatus_t cudnnFindConvolutionBackwardDataAlgorithmEx(cudnnHandle_t handle, const cudnnFilterDescriptor_t w_form, const void *w,
                                                          const cudnnTensorDescriptor_t dy_form, const void *dy,
                                                          const cudnnConvolutionDescriptor_t window, const cudnnTensorDescriptor_t dx_form,
                                                          void *dx, const int requested, int *returned,
                                                          cudnnConvolutionBwdDataAlgoPerf_t *perf, void *workspace, size_t bytes) {
    const char *function = "cudnnFindConvolutionBackwardDataAlgorithmEx";
    if (const cudnnStatus_t status = check(function, handle, dx_form, w_form, dy_form, window)) return status;
    cuStandInCount(function);
    if (!are_apart(function, {"dx", dx_form, dx}, {"dy", dy_form, dy}, {"w", w_form, w})) return CUDNN_STATUS_BAD_PARAM;
    return measure(function, DATA, *w_form, window->math, *dx_form, dx, requested, returned, perf, workspace, bytes);
}

cudnnStatus_t cudnnFindConvolutionBackwardFilterAlgorithmEx(cudnnHandle_t handle, const cudnnTensorDescriptor_t x_form, const void *x,
                                                            const cudnnTensorDescriptor_t dy_form, const void *dy,
                                                            const cudnnConvolutionDescriptor_t window,
                                                            const cudnnFilterDescriptor_t dw_form, void *dw, const int requested,
                                                            int *returned, cudnnConvolutionBwdFilterAlgoPerf_t *perf, void *workspace,
                                                            size_t bytes) {
    const char *function = "cudnnFindConvolutionBackwardFilterAlgorithmEx";
    if (const cudnnStatus_t status = check(function, handle, x_form, dw_form, dy_form, window)) return status;
    cuStandInCount(function);
    if (!are_apart(function, {"dw", dw_form, dw}, {"x", x_form, x}, {"dy", dy_form, dy})) return CUDNN_STATUS_BAD_PARAM;
    return measure(function, FILTER, *dw_form, window->math, *dw_form, dw, requested, returned, perf, workspace, bytes);
}

// ---- Convolutions

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t handle, const void *alpha, const cudnnTensorDescriptor_t x_form, const void *x,
                                      const cudnnFilterDescriptor_t w_form, const void *w, const cudnnConvolutionDescriptor_t window,
                                      cudnnConvolutionFwdAlgo_t number, void *workspace, size_t bytes, const void *beta,
                                      const cudnnTensorDescriptor_t y_form, void *y) {
    const char *function = "cudnnConvolutionForward";
    if (const cudnnStatus_t status = check(function, handle, x_form, w_form, y_form, window)) return status;
    cuStandInCount(function);
    const Algorithm *algorithm = find(function, FORWARD, number);
    if (!algorithm) return CUDNN_STATUS_NOT_SUPPORTED;
    if (!are_apart(function, {"y", y_form, y}, {"x", x_form, x}, {"w", w_form, w}) ||
        !take_workspace(function, algorithm->workspace(*w_form), workspace, bytes)) {
        return CUDNN_STATUS_BAD_PARAM;
    }
    const Problem problem{*x_form, *y_form, *w_form, *window};
    if (x_form->type == CUDNN_DATA_DOUBLE) forward<double>(problem, x, w, y, scale<double>(alpha), scale<double>(beta));
    else forward<float>(problem, x, w, y, scale<float>(alpha), scale<float>(beta));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t handle, const void *alpha, const cudnnFilterDescriptor_t w_form, const void *w,
                                           const cudnnTensorDescriptor_t dy_form, const void *dy,
                                           const cudnnConvolutionDescriptor_t window, cudnnConvolutionBwdDataAlgo_t number,
                                           void *workspace, size_t bytes, const void *beta, const cudnnTensorDescriptor_t dx_form,
                                           void *dx) {
    const char *function = "cudnnConvolutionBackwardData";
    if (const cudnnStatus_t status = check(function, handle, dx_form, w_form, dy_form, window)) return status;
    cuStandInCount(function);
    const Algorithm *algorithm = find(function, DATA, number);
    if (!algorithm) return CUDNN_STATUS_NOT_SUPPORTED;
    if (!are_apart(function, {"dx", dx_form, dx}, {"dy", dy_form, dy}, {"w", w_form, w}) ||
        !take_workspace(function, algorithm->workspace(*w_form), workspace, bytes)) {
        return CUDNN_STATUS_BAD_PARAM;
    }
    const Problem problem{*dx_form, *dy_form, *w_form, *window};
    const bool is_noisy = !algorithm->is_deterministic;
    if (dx_form->type == CUDNN_DATA_DOUBLE) {
        backward_data<double>(problem, w, dy, dx, scale<double>(alpha), scale<double>(beta), is_noisy);
    } else {
        backward_data<float>(problem, w, dy, dx, scale<float>(alpha), scale<float>(beta), is_noisy);
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void *alpha, const cudnnTensorDescriptor_t x_form, const void *x,
                                             const cudnnTensorDescriptor_t dy_form, const void *dy,
                                             const cudnnConvolutionDescriptor_t window, cudnnConvolutionBwdFilterAlgo_t number,
                                             void *workspace, size_t bytes, const void *beta, const cudnnFilterDescriptor_t dw_form,
                                             void *dw) {
    const char *function = "cudnnConvolutionBackwardFilter";
    if (const cudnnStatus_t status = check(function, handle, x_form, dw_form, dy_form, window)) return status;
    cuStandInCount(function);
    const Algorithm *algorithm = find(function, FILTER, number);
    if (!algorithm) return CUDNN_STATUS_NOT_SUPPORTED;
    if (!are_apart(function, {"dw", dw_form, dw}, {"x", x_form, x}, {"dy", dy_form, dy}) ||
        !take_workspace(function, algorithm->workspace(*dw_form), workspace, bytes)) {
        return CUDNN_STATUS_BAD_PARAM;
    }
    const Problem problem{*x_form, *dy_form, *dw_form, *window};
    const bool is_noisy = !algorithm->is_deterministic;
    if (x_form->type == CUDNN_DATA_DOUBLE) {
        backward_filter<double>(problem, x, dy, dw, scale<double>(alpha), scale<double>(beta), is_noisy);
    } else {
        backward_filter<float>(problem, x, dy, dw, scale<float>(alpha), scale<float>(beta), is_noisy);
    }
    return CUDNN_STATUS_SUCCESS;
}

}  // extern "C"
