// NT-Xent over the 2n unit rows of a batch: what is done with a tile of similarities, [rows from `first` on, all 2n columns].
//
// A block has a row of the tile, which was just written and is in the L2 cache. Sums are f64, in an order that the sizes say.
#include "../cuda/device.cuh"

constexpr int THREADS = 256;

// The greatest of a number of each thread of a block, in all of them; NaN is greater than all.
__device__ __forceinline__ float block_max(float number) {
    __shared__ float shared[THREADS];
    shared[threadIdx.x] = number;
    for (int half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            const float other = shared[threadIdx.x + half];
            if (other > shared[threadIdx.x] || other != other) shared[threadIdx.x] = other;
        }
    }
    __syncthreads();
    number = shared[0];
    __syncthreads();
    return number;
}

// Row `blockIdx.x` of left and right together, divided by its length; a zero row stays zero: similarity 0.
extern "C" __global__ void contrast_unit(const float *left, const float *right, float *unit, double *lengths, int half, int columns) {
    const int row = blockIdx.x;
    const float *from = row < half ? left + int64_t(row) * columns : right + int64_t(row - half) * columns;
    double sum = 0;
    for (int i = threadIdx.x; i < columns; i += THREADS) sum += double(from[i]) * double(from[i]);
    const double length = sqrt(block_sum<THREADS>(sum));
    for (int i = threadIdx.x; i < columns; i += THREADS) {
        unit[int64_t(row) * columns + i] = length == 0 ? 0.0f : float(double(from[i]) / length);
    }
    if (threadIdx.x == 0) lengths[row] = length;
}
HOST_KERNEL(contrast_unit)

// For every row i of the tile log Σ_{k ≠ i} exp(sim_ik / tau), and that minus the logit of its positive.
extern "C" __global__ void contrast_terms(const float *tile, double *log_sums, double *terms, int first, int count, double tau) {
    const int i = first + blockIdx.x, positive = (i + count / 2) % count;
    tile += int64_t(blockIdx.x) * count;
    const float rate = float(1.0 / tau);
    float largest = -2;
    for (int j = threadIdx.x; j < count; j += THREADS) {
        if (j != i && (tile[j] > largest || tile[j] != tile[j])) largest = tile[j];
    }
    largest = block_max(largest);
    double sum = 0;
    for (int j = threadIdx.x; j < count; j += THREADS) {
        if (j != i) sum += double(expf((tile[j] - largest) * rate));
    }
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) {
        const double log_sum = double(largest) / tau + log(sum);
        log_sums[i] = log_sum;
        terms[i] = log_sum - double(tile[positive]) / tau;
    }
}
HOST_KERNEL(contrast_terms)

// The mean of the terms: the loss. One block.
extern "C" __global__ void contrast_loss(const double *terms, float *loss, int count) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += terms[i];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *loss = float(sum / double(count));
}
HOST_KERNEL(contrast_loss)

// A tile of similarities becomes one of weights: p_ij + p_ji - 2 [j = pos(i)], where p_ij = exp(sim_ij / tau - log_sum_i).
extern "C" __global__ void contrast_weights(float *tile, const double *log_sums, int first, int count, double tau) {
    const int i = first + blockIdx.x, positive = (i + count / 2) % count;
    tile += int64_t(blockIdx.x) * count;
    const double own = log_sums[i];
    for (int j = threadIdx.x; j < count; j += THREADS) {
        const double logit = double(tile[j]) / tau;
        const float both = expf(float(logit - own)) + expf(float(logit - log_sums[j]));
        tile[j] = j == i ? 0.0f : j == positive ? both - 2.0f : both;
    }
}
HOST_KERNEL(contrast_weights)

// From the gradient of a unit row, where `grad / (count · tau)` is missing, to that of the row before it was normalised, in place.
extern "C" __global__ void contrast_through(const float *unit, const double *lengths, const float *grad, float *rows, int count, int columns,
                                            double tau) {
    const int row = blockIdx.x;
    unit += int64_t(row) * columns;
    rows += int64_t(row) * columns;
    double along = 0;
    for (int i = threadIdx.x; i < columns; i += THREADS) along += double(unit[i]) * double(rows[i]);
    along = block_sum<THREADS>(along);
    const double length = lengths[row], scale = double(*grad) / (double(count) * tau * length);
    for (int i = threadIdx.x; i < columns; i += THREADS) {
        rows[i] = length == 0 ? 0.0f : float((double(rows[i]) - along * double(unit[i])) * scale);
    }
}
HOST_KERNEL(contrast_through)
