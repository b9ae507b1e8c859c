// One step of an optimizer over all its parameters in one launch, and norms of many tensors. See table.rs for the table that says where they
// are.
//
// Products and sums are rounded one by one, as on the CPU: with the same numbers come the same bits.
//
// Memory moved per number in f32: Adam reads four and writes three, SGD and LARS three and two; a norm reads one.
#include "../cuda/device.cuh"

constexpr int THREADS = 256;
// Numbers of a block, as in table.rs.
constexpr int CHUNK = 4096;

// A tensor, or a parameter with what goes with it.
struct Entry {
    float *parameter;
    const float *grad;
    float *first, *second;
    int64_t count;
    // The first of the chunks that it is cut into, of those of all entries.
    int64_t first_chunk;
    float factors[10];
};

// The entry that a chunk belongs to: the last whose chunks begin at it or before.
__device__ const Entry &entry_of(const Entry *entries, int count, int64_t chunk) {
    int low = 0, high = count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (entries[middle].first_chunk <= chunk) low = middle;
        else high = middle;
    }
    return entries[low];
}

extern "C" __global__ void update_adam(const Entry *entries, int count) {
    const Entry &e = entry_of(entries, count, blockIdx.x);
    const float scale = e.factors[0], weight_decay = e.factors[1], keep = e.factors[2], beta1 = e.factors[3], one_minus_beta1 = e.factors[4];
    const float beta2 = e.factors[5], one_minus_beta2 = e.factors[6], step_size = e.factors[7], root = e.factors[8], eps = e.factors[9];
    const int64_t first = (blockIdx.x - e.first_chunk) * CHUNK;
    for (int64_t i = first + threadIdx.x; i < first + CHUNK && i < e.count; i += THREADS) {
        const float p = e.parameter[i];
        const float decayed = __fmul_rn(p, keep);
        const float g = __fadd_rn(__fmul_rn(e.grad[i], scale), __fmul_rn(p, weight_decay));
        const float m = __fadd_rn(__fmul_rn(e.first[i], beta1), __fmul_rn(g, one_minus_beta1));
        const float v = __fadd_rn(__fmul_rn(e.second[i], beta2), __fmul_rn(__fmul_rn(g, g), one_minus_beta2));
        const float by = __fdiv_rn(m, __fadd_rn(__fdiv_rn(__fsqrt_rn(v), root), eps));
        e.first[i] = m;
        e.second[i] = v;
        e.parameter[i] = __fsub_rn(decayed, __fmul_rn(step_size, by));
    }
}
HOST_KERNEL(update_adam)

// SGD, and LARS: then `ratios` has for every entry what its learning rate is multiplied by.
extern "C" __global__ void update_sgd(const Entry *entries, const double *ratios, int count) {
    const Entry &e = entry_of(entries, count, blockIdx.x);
    const float scale = e.factors[0], weight_decay = e.factors[1], momentum = e.factors[2], out = e.factors[4];
    const float into = ratios ? float(double(e.factors[3]) * ratios[&e - entries]) : e.factors[3];
    const bool nesterov = e.factors[5] != 0;
    const int64_t first = (blockIdx.x - e.first_chunk) * CHUNK;
    for (int64_t i = first + threadIdx.x; i < first + CHUNK && i < e.count; i += THREADS) {
        const float p = e.parameter[i];
        const float g = __fmul_rn(__fadd_rn(__fmul_rn(e.grad[i], scale), __fmul_rn(p, weight_decay)), into);
        const float velocity = __fadd_rn(__fmul_rn(e.first[i], momentum), g);
        const float by = nesterov ? __fadd_rn(g, __fmul_rn(velocity, momentum)) : velocity;
        e.first[i] = velocity;
        e.parameter[i] = __fsub_rn(p, __fmul_rn(out, by));
    }
}
HOST_KERNEL(update_sgd)

// Of every chunk the sums of squares of the gradient (times `scale`, with the decay of the parameter), and of the parameter if there is one.
extern "C" __global__ void update_squares(const Entry *entries, double *squares, int count) {
    const Entry &e = entry_of(entries, count, blockIdx.x);
    const float scale = e.factors[0], weight_decay = e.factors[1];
    const int64_t first = (blockIdx.x - e.first_chunk) * CHUNK;
    double of_grad = 0, of_parameter = 0;
    for (int64_t i = first + threadIdx.x; i < first + CHUNK && i < e.count; i += THREADS) {
        float g = __fmul_rn(e.grad[i], scale);
        if (e.parameter) {
            const float p = e.parameter[i];
            g = __fadd_rn(g, __fmul_rn(p, weight_decay));
            of_parameter += double(p) * double(p);
        }
        of_grad += double(g) * double(g);
    }
    of_grad = block_sum<THREADS>(of_grad);
    of_parameter = block_sum<THREADS>(of_parameter);
    if (threadIdx.x == 0) {
        squares[2 * int64_t(blockIdx.x)] = of_grad;
        squares[2 * int64_t(blockIdx.x) + 1] = of_parameter;
    }
}
HOST_KERNEL(update_squares)

// The trust ratio of LARS for every entry, a block each: `coefficient · |p| / |gradient|`, 1 where a norm is zero or nothing is adapted.
extern "C" __global__ void update_ratios(const Entry *entries, const double *squares, double *ratios, int count, int64_t chunks) {
    const Entry &e = entries[blockIdx.x];
    const int64_t end = blockIdx.x + 1 < count ? entries[blockIdx.x + 1].first_chunk : chunks;
    double of_grad = 0, of_parameter = 0;
    for (int64_t chunk = e.first_chunk + threadIdx.x; chunk < end; chunk += THREADS) {
        of_grad += squares[2 * chunk];
        of_parameter += squares[2 * chunk + 1];
    }
    of_grad = sqrt(block_sum<THREADS>(of_grad));
    of_parameter = sqrt(block_sum<THREADS>(of_parameter));
    if (threadIdx.x == 0) {
        const double coefficient = e.factors[6];
        ratios[blockIdx.x] = coefficient > 0 && of_grad > 0 && of_parameter > 0 ? coefficient * of_parameter / of_grad : 1.0;
    }
}
HOST_KERNEL(update_ratios)

// The sum over all chunks. One block.
extern "C" __global__ void update_total(const double *squares, double *total, int64_t chunks) {
    double sum = 0;
    for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += THREADS) sum += squares[2 * chunk];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *total = sum;
}
HOST_KERNEL(update_total)
