// The bias of a linear layer, and its gradient. The products are cuBLAS's.
#include "../cuda/device.cuh"

// Every row becomes the bias, to which the product is added.
extern "C" __global__ void linear_bias(const float *bias, float *y, int64_t count, int columns) {
    const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at < count) y[at] = bias[at % columns];
}
HOST_KERNEL(linear_bias)

// Sums over the rows, in an order that the sizes say: a block has 32 columns, each of its 8 rows of threads every eighth row.
extern "C" __global__ void linear_column_sums(const float *rows, float *sums, int count, int columns) {
    __shared__ float shared[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < columns) {
        for (int row = threadIdx.y; row < count; row += 8) sum += rows[int64_t(row) * columns + column];
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= columns) return;
    for (int i = 1; i < 8; ++i) sum += shared[i][threadIdx.x];
    sums[column] = sum;
}
HOST_KERNEL(linear_column_sums)
