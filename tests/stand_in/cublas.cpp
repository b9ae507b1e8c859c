// cuBLAS as plain loops: libcublas.so.13. Products of matrices in all the types that this project multiplies, sums in f32 or f64.
//
// Arguments are checked as the documentation of cuBLAS has them, and beyond: matrices must lie within an allocation of the device, and
// where the caller allows TF32, factors are rounded to it, so that tests notice whether it was meant.
#include <cublas_v2.h>

#include "numbers.hpp"
#include "stand_in.hpp"

using namespace stand_in;

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasAtomicsMode_t atomics = CUBLAS_ATOMICS_NOT_ALLOWED;
};

namespace {

struct Matrix {
    const void *numbers;
    cudaDataType type;
    long long leading, stride;
    cublasOperation_t operation;
};

size_t size_of(cudaDataType type) {
    switch (type) {
    case CUDA_R_64F: return 8;
    case CUDA_R_32F: return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF: return 2;
    default: return 0;
    }
}

template <class T>
T read(const void *numbers, cudaDataType type, size_t at) {
    switch (type) {
    case CUDA_R_64F: return T(static_cast<const double *>(numbers)[at]);
    case CUDA_R_32F: return T(static_cast<const float *>(numbers)[at]);
    case CUDA_R_16F: return T(float(static_cast<const F16 *>(numbers)[at]));
    default: return T(float(static_cast<const Bf16 *>(numbers)[at]));
    }
}

template <class T>
void write(void *numbers, cudaDataType type, size_t at, T number) {
    switch (type) {
    case CUDA_R_64F: static_cast<double *>(numbers)[at] = double(number); break;
    case CUDA_R_32F: static_cast<float *>(numbers)[at] = float(number); break;
    case CUDA_R_16F: static_cast<F16 *>(numbers)[at] = F16(float(number)); break;
    default: static_cast<Bf16 *>(numbers)[at] = Bf16(float(number));
    }
}

// The matrix `operation`(rows × columns), column by column: what is read as rows is its transpose.
template <class T>
void pack(const Matrix &matrix, long long batch, int rows, int columns, bool by_columns, bool round, std::vector<T> &to) {
    to.resize(size_t(rows) * columns);
    const bool transposed = matrix.operation != CUBLAS_OP_N;
    const size_t start = size_t(batch * matrix.stride);
    for (int column = 0; column < columns; ++column) {
        for (int row = 0; row < rows; ++row) {
            const size_t from = transposed ? size_t(row) * matrix.leading + column : size_t(column) * matrix.leading + row;
            T number = read<T>(matrix.numbers, matrix.type, start + from);
            if (round) number = T(tf32(float(number)));
            to[by_columns ? size_t(column) * rows + row : size_t(row) * columns + column] = number;
        }
    }
}

template <class T>
void multiply(int m, int n, int k, T alpha, const Matrix &a, const Matrix &b, T beta, void *c, const Matrix &to, int batches, bool round) {
    std::vector<T> left, right, sums;
    for (int batch = 0; batch < batches; ++batch) {
        // In rows, cᵀ = bᵀ · aᵀ.
        pack(b, batch, k, n, true, round, left);
        pack(a, batch, m, k, true, round, right);
        sums.assign(size_t(m) * n, T(0));
        add_product(left.data(), right.data(), sums.data(), size_t(n), size_t(k), size_t(m));
        for (int column = 0; column < n; ++column) {
            for (int row = 0; row < m; ++row) {
                const size_t at = size_t(batch * to.stride) + size_t(column) * to.leading + row;
                T number = alpha * sums[size_t(column) * m + row];
                // With a beta of 0, c is not read: it may be NaN.
                if (beta != T(0)) number += beta * read<T>(c, to.type, at);
                write(c, to.type, at, number);
            }
        }
    }
}

// `rows` × `columns` as stored.
bool holds(const char *function, const char *name, const Matrix &matrix, int rows, int columns, int batches) {
    if (matrix.leading < (rows > 1 ? rows : 1)) {
        cuStandInSay(function, "the leading dimension of %s is %lld, less than its %d rows", name, matrix.leading, rows);
        return false;
    }
    if (rows == 0 || columns == 0 || batches == 0) return true;
    const size_t last = size_t(batches - 1) * size_t(matrix.stride) + size_t(columns - 1) * matrix.leading + rows;
    if (matrix.stride < 0) {
        cuStandInSay(function, "the stride of %s is negative", name);
        return false;
    }
    return cuStandInHolds(function, name, matrix.numbers, last * size_of(matrix.type));
}

cublasStatus_t product(const char *function, cublasHandle_t handle, int m, int n, int k, const void *alpha, const Matrix &a,
                       const Matrix &b, const void *beta, void *c, const Matrix &to, int batches, cublasComputeType_t compute) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    cuStandInCount(function);
    if (m < 0 || n < 0 || k < 0 || batches < 0 || !alpha || !beta) {
        cuStandInSay(function, "m, n, k and the number of products are %d, %d, %d and %d, alpha %p, beta %p", m, n, k, batches, alpha, beta);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    bool is_wide = false, may_round = false;
    switch (compute) {
    case CUBLAS_COMPUTE_64F:
    case CUBLAS_COMPUTE_64F_PEDANTIC: is_wide = true; break;
    case CUBLAS_COMPUTE_32F:
        may_round = handle->math == CUBLAS_TF32_TENSOR_OP_MATH;
        break;
    case CUBLAS_COMPUTE_32F_PEDANTIC: break;
    case CUBLAS_COMPUTE_32F_FAST_TF32: may_round = true; break;
    default:
        cuStandInSay(function, "the compute type %d is not supported here", int(compute));
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    // Factors are of one type, and the result is too, or is f32.
    const bool types_fit = a.type == b.type && (is_wide ? a.type == CUDA_R_64F && to.type == CUDA_R_64F
                                                        : size_of(a.type) && a.type != CUDA_R_64F &&
                                                              (to.type == a.type || to.type == CUDA_R_32F));
    if (!types_fit) {
        cuStandInSay(function, "types %d × %d to %d do not go together with compute type %d", int(a.type), int(b.type), int(to.type),
                     int(compute));
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const bool a_turned = a.operation != CUBLAS_OP_N, b_turned = b.operation != CUBLAS_OP_N;
    if (!holds(function, "A", a, a_turned ? k : m, a_turned ? m : k, batches)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!holds(function, "B", b, b_turned ? n : k, b_turned ? k : n, batches)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!holds(function, "C", to, m, n, batches)) return CUBLAS_STATUS_INVALID_VALUE;
    if (batches > 1 && to.stride < to.leading * (n - 1) + m) {
        cuStandInSay(function, "the results overlap: C has a stride of %lld", to.stride);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (is_wide) {
        multiply<double>(m, n, k, *static_cast<const double *>(alpha), a, b, *static_cast<const double *>(beta), c, to, batches, false);
    } else {
        const bool round = may_round && a.type == CUDA_R_32F;
        multiply<float>(m, n, k, *static_cast<const float *>(alpha), a, b, *static_cast<const float *>(beta), c, to, batches, round);
    }
    return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t vector_product(const char *function, cublasHandle_t handle, cublasOperation_t operation, int m, int n, const T *alpha,
                              const T *a, int lda, const T *x, int incx, const T *beta, T *y, int incy) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    cuStandInCount(function);
    if (m < 0 || n < 0 || lda < (m > 1 ? m : 1) || incx < 1 || incy < 1) {
        cuStandInSay(function, "m %d, n %d, lda %d, incx %d, incy %d", m, n, lda, incx, incy);
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (m == 0 || n == 0) return CUBLAS_STATUS_SUCCESS;
    const bool transposed = operation != CUBLAS_OP_N;
    const int rows = transposed ? n : m, depth = transposed ? m : n;
    if (!cuStandInHolds(function, "A", a, (size_t(n - 1) * lda + m) * sizeof(T)) ||
        !cuStandInHolds(function, "x", x, (size_t(depth - 1) * incx + 1) * sizeof(T)) ||
        !cuStandInHolds(function, "y", y, (size_t(rows - 1) * incy + 1) * sizeof(T))) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    for (int row = 0; row < rows; ++row) {
        T sum = 0;
        for (int i = 0; i < depth; ++i) sum += a[transposed ? size_t(row) * lda + i : size_t(i) * lda + row] * x[size_t(i) * incx];
        T &to = y[size_t(row) * incy];
        to = *beta == T(0) ? *alpha * sum : *alpha * sum + *beta * to;
    }
    return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t *handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int *version) {
    *version = CUBLAS_VERSION;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t *stream) {
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}

// Loops need no workspace.
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void *workspace, size_t bytes) {
    return cuStandInHolds("cublasSetWorkspace", "the workspace", workspace, bytes) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t *mode) {
    *mode = handle->pointers;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t *mode) {
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t mode) {
    handle->atomics = mode;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGetAtomicsMode(cublasHandle_t handle, cublasAtomicsMode_t *mode) {
    *mode = handle->atomics;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                              const float *alpha, const float *a, int lda, const float *b, int ldb, const float *beta, float *c, int ldc) {
    return product("cublasSgemm", handle, m, n, k, alpha, {a, CUDA_R_32F, lda, 0, op_a}, {b, CUDA_R_32F, ldb, 0, op_b}, beta, c,
                   {c, CUDA_R_32F, ldc, 0, CUBLAS_OP_N}, 1, CUBLAS_COMPUTE_32F);
}

cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                              const double *alpha, const double *a, int lda, const double *b, int ldb, const double *beta, double *c,
                              int ldc) {
    return product("cublasDgemm", handle, m, n, k, alpha, {a, CUDA_R_64F, lda, 0, op_a}, {b, CUDA_R_64F, ldb, 0, op_b}, beta, c,
                   {c, CUDA_R_64F, ldc, 0, CUBLAS_OP_N}, 1, CUBLAS_COMPUTE_64F);
}

cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                         const float *alpha, const float *a, int lda, long long stride_a, const float *b, int ldb,
                                         long long stride_b, const float *beta, float *c, int ldc, long long stride_c, int batches) {
    return product("cublasSgemmStridedBatched", handle, m, n, k, alpha, {a, CUDA_R_32F, lda, stride_a, op_a},
                   {b, CUDA_R_32F, ldb, stride_b, op_b}, beta, c, {c, CUDA_R_32F, ldc, stride_c, CUBLAS_OP_N}, batches, CUBLAS_COMPUTE_32F);
}

cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                         const double *alpha, const double *a, int lda, long long stride_a, const double *b, int ldb,
                                         long long stride_b, const double *beta, double *c, int ldc, long long stride_c, int batches) {
    return product("cublasDgemmStridedBatched", handle, m, n, k, alpha, {a, CUDA_R_64F, lda, stride_a, op_a},
                   {b, CUDA_R_64F, ldb, stride_b, op_b}, beta, c, {c, CUDA_R_64F, ldc, stride_c, CUBLAS_OP_N}, batches, CUBLAS_COMPUTE_64F);
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k, const void *alpha,
                            const void *a, cudaDataType type_a, int lda, const void *b, cudaDataType type_b, int ldb, const void *beta,
                            void *c, cudaDataType type_c, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t) {
    return product("cublasGemmEx", handle, m, n, k, alpha, {a, type_a, lda, 0, op_a}, {b, type_b, ldb, 0, op_b}, beta, c,
                   {c, type_c, ldc, 0, CUBLAS_OP_N}, 1, compute);
}

cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b, int m, int n, int k,
                                          const void *alpha, const void *a, cudaDataType type_a, int lda, long long stride_a,
                                          const void *b, cudaDataType type_b, int ldb, long long stride_b, const void *beta, void *c,
                                          cudaDataType type_c, int ldc, long long stride_c, int batches, cublasComputeType_t compute,
                                          cublasGemmAlgo_t) {
    return product("cublasGemmStridedBatchedEx", handle, m, n, k, alpha, {a, type_a, lda, stride_a, op_a},
                   {b, type_b, ldb, stride_b, op_b}, beta, c, {c, type_c, ldc, stride_c, CUBLAS_OP_N}, batches, compute);
}

cublasStatus_t cublasSgemv_v2(cublasHandle_t handle, cublasOperation_t operation, int m, int n, const float *alpha, const float *a,
                              int lda, const float *x, int incx, const float *beta, float *y, int incy) {
    return vector_product("cublasSgemv", handle, operation, m, n, alpha, a, lda, x, incx, beta, y, incy);
}

cublasStatus_t cublasDgemv_v2(cublasHandle_t handle, cublasOperation_t operation, int m, int n, const double *alpha, const double *a,
                              int lda, const double *x, int incx, const double *beta, double *y, int incy) {
    return vector_product("cublasDgemv", handle, operation, m, n, alpha, a, lda, x, incx, beta, y, incy);
}

}  // extern "C"
