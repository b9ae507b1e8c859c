// Rows of unit length, and their gradient: a warp has a row. Sums are f64, as on the CPU: rows are short.
#include "../cuda/device.cuh"

constexpr double SHORTEST = 1e-12;

extern "C" __global__ void l2_normalize_forward(const float *x, float *y, double *norms, int rows, int columns) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += int64_t(row) * columns;
    y += int64_t(row) * columns;
    double sum = 0;
    for (int i = threadIdx.x; i < columns; i += 32) sum += double(x[i]) * double(x[i]);
    const double norm = sqrt(warp_sum(sum));
    // A row with NaN stays NaN, so that a broken network is seen.
    for (int i = threadIdx.x; i < columns; i += 32) y[i] = norm <= SHORTEST ? 0.0f : float(double(x[i]) / norm);
    if (threadIdx.x == 0) norms[row] = norm;
}
HOST_KERNEL(l2_normalize_forward)

// (g - y (g · y)) / |x|.
extern "C" __global__ void l2_normalize_backward(const float *y, const double *norms, const float *grad, float *dx, int rows, int columns) {
    const int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const int64_t at = int64_t(row) * columns;
    double along = 0;
    for (int i = threadIdx.x; i < columns; i += 32) along += double(y[at + i]) * double(grad[at + i]);
    along = warp_sum(along);
    const double norm = norms[row];
    for (int i = threadIdx.x; i < columns; i += 32) {
        dx[at + i] = norm <= SHORTEST ? 0.0f : float((double(grad[at + i]) - double(y[at + i]) * along) / norm);
    }
}
HOST_KERNEL(l2_normalize_backward)
