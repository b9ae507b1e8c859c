// Whether the stand-ins do what README.md says: `build OUT_DIR --test`.
#include <cublas_v2.h>
#include <cuda.h>
#include <cudnn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#define EXPECT(condition)                                                                                                               \
    do {                                                                                                                                \
        if (!(condition)) {                                                                                                             \
            std::fprintf(stderr, "self test, line %d: %s\n", __LINE__, #condition);                                                     \
            std::exit(1);                                                                                                               \
        }                                                                                                                               \
    } while (false)

namespace {

CUmodule module;

CUdeviceptr upload(const void *from, size_t bytes) {
    CUdeviceptr to;
    EXPECT(cuMemAlloc(&to, bytes) == CUDA_SUCCESS);
    if (from) EXPECT(cuMemcpyHtoD(to, from, bytes) == CUDA_SUCCESS);
    return to;
}

template <class T>
CUdeviceptr upload(const std::vector<T> &numbers) {
    return upload(numbers.data(), numbers.size() * sizeof(T));
}

template <class T>
std::vector<T> download(CUdeviceptr from, size_t count) {
    std::vector<T> numbers(count);
    EXPECT(cuMemcpyDtoH(numbers.data(), from, count * sizeof(T)) == CUDA_SUCCESS);
    return numbers;
}

template <class T>
T *pointer(CUdeviceptr address) {
    return reinterpret_cast<T *>(address);
}

CUfunction function_of(const char *name) {
    CUfunction function;
    EXPECT(cuModuleGetFunction(&function, module, name) == CUDA_SUCCESS);
    return function;
}

template <class... A>
CUresult launch(const char *name, unsigned blocks, unsigned threads, unsigned shared, A... arguments) {
    void *params[] = {&arguments..., nullptr};
    return cuLaunchKernel(function_of(name), blocks, 1, 1, threads, 1, 1, shared, nullptr, params, nullptr);
}

// Numbers that are exact in all types, so that sums in any order are equal.
std::vector<float> small_numbers(size_t count, unsigned seed) {
    std::vector<float> numbers(count);
    for (float &number : numbers) {
        seed = seed * 1664525 + 1013904223;
        number = float(int(seed >> 24) % 9 - 4);
    }
    return numbers;
}

// Whether a child that does this ends by abort(); its messages are expected, too, and not shown.
template <class Do>
bool aborts(Do something) {
    std::fflush(nullptr);
    const pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        EXPECT(std::freopen("/dev/null", "w", stderr));
        something();
        _exit(0);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

void kernels() {
    const std::vector<float> numbers = small_numbers(1000, 1);
    float sum = 0;
    for (float number : numbers) sum += number;
    const CUdeviceptr from = upload(numbers), to = upload(nullptr, 4);
    EXPECT(std::isnan(download<float>(to, 1)[0]));
    for (unsigned threads : {64u, 256u, 1024u}) {
        EXPECT(launch("self_test_sum", 3, threads, 0, from, int(numbers.size()), to) == CUDA_SUCCESS);
        EXPECT(download<float>(to, 1)[0] == sum);
    }

    const CUdeviceptr answers = upload(nullptr, 32 * 7 * 4);
    EXPECT(launch("self_test_lanes", 1, 32, 0, answers) == CUDA_SUCCESS);
    const std::vector<int> got = download<int>(answers, 32 * 7);
    for (int lane = 0; lane < 32; ++lane) {
        const int expected[] = {5, lane < 3 ? lane : lane - 3, lane > 28 ? lane : lane + 3, lane ^ 1, 0x49249249, 1, 0};
        for (int i = 0; i < 7; ++i) EXPECT(got[7 * lane + i] == expected[i]);
    }

    std::vector<int> count(300);
    for (int i = 0; i < 300; ++i) count[i] = i;
    const CUdeviceptr ints = upload(count);
    EXPECT(launch("self_test_reverse", 3, 128, 128 * 4, ints, 300) == CUDA_SUCCESS);
    const std::vector<int> reversed = download<int>(ints, 300);
    for (int i = 0; i < 300; ++i) EXPECT(reversed[i] == (i < 256 ? i / 128 * 128 + 127 - i % 128 : 256 + 299 - i));
    EXPECT(aborts([&] { launch("self_test_reverse", 1, 128, 127 * 4, ints, 300); }));

    const unsigned long long zero = 0;
    const CUdeviceptr crooked = upload(&zero, 8);
    EXPECT(launch("self_test_stack", 2, 64, 0, crooked) == CUDA_SUCCESS);
    EXPECT(download<unsigned long long>(crooked, 1)[0] == 0);

    EXPECT(aborts([] { launch("self_test_deadlock", 1, 64, 0); }));
    EXPECT(aborts([] { launch("self_test_two_barriers", 1, 64, 0); }));
}

void limits() {
    const CUdeviceptr byte = upload(nullptr, 1);
    EXPECT(launch("self_test_poke", 1, 1025, 0, byte, 0ll, 'x') == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("self_test_poke", 0, 1, 0, byte, 0ll, 'x') == CUDA_ERROR_INVALID_VALUE);
    EXPECT(launch("self_test_poke", 1, 1, (48 << 10) + 1, byte, 0ll, 'x') == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuFuncSetAttribute(function_of("self_test_poke"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 227 << 10) == CUDA_SUCCESS);
    EXPECT(launch("self_test_poke", 1, 1, 227 << 10, byte, 0ll, 'x') == CUDA_SUCCESS);
    EXPECT(download<char>(byte, 1)[0] == 'x');
    CUfunction none;
    EXPECT(cuModuleGetFunction(&none, module, "no_such_kernel") == CUDA_ERROR_NOT_FOUND);
}

void memory() {
    size_t before, after, total;
    EXPECT(cuMemGetInfo(&before, &total) == CUDA_SUCCESS);
    CUdeviceptr address;
    EXPECT(cuMemAlloc(&address, total) == CUDA_ERROR_OUT_OF_MEMORY);
    EXPECT(cuMemAlloc(&address, 1001) == CUDA_SUCCESS);
    EXPECT(cuMemGetInfo(&after, &total) == CUDA_SUCCESS && before - after == 1001);
    char bytes[8];
    EXPECT(cuMemcpyDtoH(bytes, address + 994, 8) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuMemcpyDtoH(bytes, address + 993, 8) == CUDA_SUCCESS);
    EXPECT(cuMemFree(address + 1) == CUDA_ERROR_INVALID_VALUE);
    for (long long outside : {-1ll, 1001ll, 1256ll}) {
        EXPECT(aborts([&] {
            launch("self_test_poke", 1, 1, 0, address, outside, 'x');
            cuMemFree(address);
        }));
        EXPECT(aborts([&] {
            launch("self_test_poke", 1, 1, 0, address, outside, 'x');
            cuCtxSynchronize();
        }));
    }
    EXPECT(cuMemFree(address) == CUDA_SUCCESS);
    EXPECT(cuMemFree(address) == CUDA_ERROR_INVALID_VALUE);
}

// Sizes of a convolution of NHWC maps.
struct Case {
    int n, height, width, c_in, c_out, kernel, stride, padding;

    int out(int size) const { return 1 + (size + 2 * padding - kernel) / stride; }
};

// Calls `with` for all that meet: the places of a number of x, of w and of y.
template <class With>
void for_each_product(const Case &c, With with) {
    for (int n = 0; n < c.n; ++n)
        for (int oh = 0; oh < c.out(c.height); ++oh)
            for (int ow = 0; ow < c.out(c.width); ++ow)
                for (int k = 0; k < c.c_out; ++k)
                    for (int kh = 0; kh < c.kernel; ++kh)
                        for (int kw = 0; kw < c.kernel; ++kw)
                            for (int i = 0; i < c.c_in; ++i) {
                                const int h = oh * c.stride - c.padding + kh, w = ow * c.stride - c.padding + kw;
                                if (h < 0 || h >= c.height || w < 0 || w >= c.width) continue;
                                with(((size_t(n) * c.height + h) * c.width + w) * c.c_in + i,
                                     ((size_t(k) * c.kernel + kh) * c.kernel + kw) * c.c_in + i,
                                     ((size_t(n) * c.out(c.height) + oh) * c.out(c.width) + ow) * c.c_out + k);
                            }
}

void convolution(const Case &c) {
    const int out_h = c.out(c.height), out_w = c.out(c.width);
    const std::vector<float> x = small_numbers(size_t(c.n) * c.height * c.width * c.c_in, 1);
    const std::vector<float> w = small_numbers(size_t(c.c_out) * c.kernel * c.kernel * c.c_in, 2);
    const std::vector<float> dy = small_numbers(size_t(c.n) * out_h * out_w * c.c_out, 3);
    std::vector<float> y(dy.size()), dx(x.size()), dw(w.size());
    for_each_product(c, [&](size_t in_x, size_t in_w, size_t in_y) {
        y[in_y] += x[in_x] * w[in_w];
        dx[in_x] += dy[in_y] * w[in_w];
        dw[in_w] += dy[in_y] * x[in_x];
    });

    cudnnHandle_t handle;
    cudnnTensorDescriptor_t x_form, y_form, wrong;
    cudnnFilterDescriptor_t w_form;
    cudnnConvolutionDescriptor_t window;
    EXPECT(!cudnnCreate(&handle) && !cudnnCreateTensorDescriptor(&x_form) && !cudnnCreateTensorDescriptor(&y_form));
    EXPECT(!cudnnCreateTensorDescriptor(&wrong) && !cudnnCreateFilterDescriptor(&w_form) && !cudnnCreateConvolutionDescriptor(&window));
    EXPECT(!cudnnSetTensor4dDescriptor(x_form, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, c.n, c.c_in, c.height, c.width));
    EXPECT(!cudnnSetTensor4dDescriptor(y_form, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, c.n, c.c_out, out_h, out_w));
    EXPECT(!cudnnSetTensor4dDescriptor(wrong, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, c.n, c.c_out, out_h + 1, out_w));
    EXPECT(!cudnnSetFilter4dDescriptor(w_form, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, c.c_out, c.c_in, c.kernel, c.kernel));
    EXPECT(!cudnnSetConvolution2dDescriptor(window, c.padding, c.padding, c.stride, c.stride, 1, 1, CUDNN_CROSS_CORRELATION,
                                            CUDNN_DATA_FLOAT));
    EXPECT(!cudnnSetConvolutionMathType(window, CUDNN_FMA_MATH));

    const CUdeviceptr on_x = upload(x), on_w = upload(w), on_dy = upload(dy);
    const CUdeviceptr on_y = upload(nullptr, 4 * y.size()), on_dx = upload(nullptr, 4 * dx.size()), on_dw = upload(nullptr, 4 * dw.size());
    const float one = 1, zero = 0;
    size_t bytes;
    const auto forward_algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
    EXPECT(!cudnnGetConvolutionForwardWorkspaceSize(handle, x_form, w_form, window, y_form, forward_algorithm, &bytes) && bytes > 0);
    EXPECT(cudnnGetConvolutionForwardWorkspaceSize(handle, x_form, w_form, window, wrong, forward_algorithm, &bytes) ==
           CUDNN_STATUS_BAD_PARAM);
    CUdeviceptr workspace = upload(nullptr, bytes);
    const auto forward = [&](void *in, size_t size) {
        return cudnnConvolutionForward(handle, &one, x_form, pointer<float>(on_x), w_form, pointer<float>(on_w), window,
                                       forward_algorithm, in, size, &zero, y_form, pointer<float>(on_y));
    };
    EXPECT(forward(pointer<void>(workspace), bytes - 1) == CUDNN_STATUS_BAD_PARAM);
    EXPECT(forward(nullptr, bytes) == CUDNN_STATUS_BAD_PARAM);
    EXPECT(forward(pointer<void>(workspace), bytes) == CUDNN_STATUS_SUCCESS);
    EXPECT(download<float>(on_y, y.size()) == y);

    // Measuring runs all that have the workspace, the fastest first, and leaves nothing of y, and x as it was.
    cudnnConvolutionFwdAlgoPerf_t measured[8];
    int count;
    const auto measure = [&](void *out, size_t size) {
        return cudnnFindConvolutionForwardAlgorithmEx(handle, x_form, pointer<float>(on_x), w_form, pointer<float>(on_w), window, y_form,
                                                      out, 8, &count, measured, pointer<void>(workspace), size);
    };
    const auto ran = [&] {
        return std::count_if(measured, measured + count, [](const auto &one) { return one.status == CUDNN_STATUS_SUCCESS; });
    };
    EXPECT(measure(pointer<float>(on_x), bytes) == CUDNN_STATUS_BAD_PARAM && measure(nullptr, bytes) == CUDNN_STATUS_BAD_PARAM);
    EXPECT(measure(pointer<float>(on_y), bytes - 1) == CUDNN_STATUS_SUCCESS && ran() == 2);
    EXPECT(measure(pointer<float>(on_y), bytes) == CUDNN_STATUS_SUCCESS && ran() == 4);
    EXPECT(measured[0].algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM && measured[0].mathType == CUDNN_DEFAULT_MATH);
    EXPECT(measured[0].time > 0 && measured[0].time < measured[1].time);
    const std::vector<float> left = download<float>(on_y, y.size());
    EXPECT(std::all_of(left.begin(), left.end(), [](float number) { return std::isnan(number); }));
    EXPECT(download<float>(on_x, x.size()) == x && download<float>(on_w, w.size()) == w);

    // The first algorithm that is offered is not deterministic, and shows it.
    cudnnConvolutionBwdDataAlgoPerf_t data[4];
    cudnnConvolutionBwdFilterAlgoPerf_t filter[4];
    EXPECT(!cudnnGetConvolutionBackwardDataAlgorithm_v7(handle, w_form, y_form, window, x_form, 4, &count, data) && count >= 2);
    EXPECT(!cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle, x_form, y_form, window, w_form, 4, &count, filter) && count >= 2);
    for (int i = 0; i < 2; ++i) {
        EXPECT(data[i].status == CUDNN_STATUS_SUCCESS && filter[i].status == CUDNN_STATUS_SUCCESS);
        EXPECT((data[i].determinism == CUDNN_DETERMINISTIC) == (i == 1) && (filter[i].determinism == CUDNN_DETERMINISTIC) == (i == 1));
        workspace = upload(nullptr, 1 + data[i].memory + filter[i].memory);
        EXPECT(!cudnnConvolutionBackwardData(handle, &one, w_form, pointer<float>(on_w), y_form, pointer<float>(on_dy), window,
                                             data[i].algo, pointer<void>(workspace), data[i].memory, &zero, x_form, pointer<float>(on_dx)));
        EXPECT((download<float>(on_dx, dx.size()) == dx) == (i == 1));
        EXPECT(!cudnnConvolutionBackwardFilter(handle, &one, x_form, pointer<float>(on_x), y_form, pointer<float>(on_dy), window,
                                               filter[i].algo, pointer<void>(workspace), filter[i].memory, &zero, w_form,
                                               pointer<float>(on_dw)));
        EXPECT((download<float>(on_dw, dw.size()) == dw) == (i == 1));
    }
}

void matrices() {
    const int m = 5, n = 7, k = 3;
    const std::vector<float> a = small_numbers(m * k, 1), b = small_numbers(k * n, 2), c = small_numbers(m * n, 3);
    const CUdeviceptr on_a = upload(a), on_b = upload(b);
    cublasHandle_t handle;
    EXPECT(!cublasCreate(&handle));
    const float alpha = 2, beta = 3;
    for (bool a_turned : {false, true}) {
        for (bool b_turned : {false, true}) {
            const CUdeviceptr on_c = upload(c);
            const cublasOperation_t op_a = a_turned ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = b_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
            EXPECT(!cublasSgemm(handle, op_a, op_b, m, n, k, &alpha, pointer<float>(on_a), a_turned ? k : m, pointer<float>(on_b),
                                b_turned ? n : k, &beta, pointer<float>(on_c), m));
            const std::vector<float> got = download<float>(on_c, c.size());
            for (int row = 0; row < m; ++row) {
                for (int column = 0; column < n; ++column) {
                    float sum = 0;
                    for (int i = 0; i < k; ++i) sum += a[a_turned ? row * k + i : i * m + row] * b[b_turned ? i * n + column : column * k + i];
                    EXPECT(got[column * m + row] == alpha * sum + beta * c[column * m + row]);
                }
            }
            EXPECT(cublasSgemm(handle, op_a, op_b, m, n, k, &alpha, pointer<float>(on_a), (a_turned ? k : m) - 1, pointer<float>(on_b),
                               b_turned ? n : k, &beta, pointer<float>(on_c), m) == CUBLAS_STATUS_INVALID_VALUE);
        }
    }
}

}  // namespace

// Page-locked memory is copied later than it was asked for, as by a GPU.
void late_copies() {
    CUstream stream;
    CUevent before, after;
    EXPECT(cuStreamCreate(&stream, 0) == CUDA_SUCCESS);
    EXPECT(cuEventCreate(&before, 0) == CUDA_SUCCESS && cuEventCreate(&after, 0) == CUDA_SUCCESS);
    void *memory;
    EXPECT(cuMemHostAlloc(&memory, 2 * sizeof(double), 0) == CUDA_SUCCESS);
    auto *host = static_cast<double *>(memory);
    CUdeviceptr device;
    EXPECT(cuMemAlloc(&device, sizeof(double)) == CUDA_SUCCESS);
    host[0] = 1;
    EXPECT(cuMemcpyHtoDAsync(device, host, sizeof(double), stream) == CUDA_SUCCESS);
    // Too early: the copy has not been made.
    host[0] = 2;
    EXPECT(cuEventRecord(before, stream) == CUDA_SUCCESS);
    EXPECT(cuMemcpyDtoHAsync(host + 1, device, sizeof(double), stream) == CUDA_SUCCESS);
    EXPECT(cuEventRecord(after, stream) == CUDA_SUCCESS);
    EXPECT(host[1] != host[1]);
    EXPECT(cuEventSynchronize(before) == CUDA_SUCCESS && host[1] != host[1]);
    EXPECT(cuEventSynchronize(after) == CUDA_SUCCESS && host[1] == 2);
    EXPECT(cuMemFree(device) == CUDA_SUCCESS);
    EXPECT(cuMemFreeHost(host) == CUDA_SUCCESS && cuMemFreeHost(host) == CUDA_ERROR_INVALID_VALUE);
    EXPECT(cuEventDestroy(before) == CUDA_SUCCESS && cuEventDestroy(after) == CUDA_SUCCESS && cuStreamDestroy(stream) == CUDA_SUCCESS);
}

int main() {
    CUdevice device;
    CUcontext context;
    EXPECT(cuInit(0) == CUDA_SUCCESS && cuDeviceGet(&device, 0) == CUDA_SUCCESS);
    EXPECT(cuDevicePrimaryCtxRetain(&context, device) == CUDA_SUCCESS);
    CUdeviceptr none;
    EXPECT(cuMemAlloc(&none, 4) == CUDA_ERROR_INVALID_CONTEXT);
    EXPECT(cuCtxSetCurrent(context) == CUDA_SUCCESS);
    EXPECT(cuModuleLoadData(&module, "") == CUDA_SUCCESS);
    kernels();
    limits();
    memory();
    late_copies();
    convolution({2, 7, 6, 5, 9, 3, 2, 1});
    convolution({1, 5, 8, 3, 4, 1, 1, 0});
    convolution({1, 9, 9, 2, 6, 5, 1, 2});
    matrices();
    std::puts("the stand-in does what it should");
}
