// One step of an optimizer over all its parameters in one launch, and norms of many tensors. See table.rs for the table that says where they
// are.
//
// Products and sums are rounded one by one, as on the CPU: with the same numbers come the same bits.
//
// Memory moved per number in f32: Adam reads four and writes three, SGD and LARS three and two; a norm reads one, a trust ratio two.
#include "../cuda/device.cuh"

constexpr int THREADS = 256;
// Numbers of a block, as in table.rs.
constexpr int CHUNK = 4096;

// As in table.rs.
enum Kind : int64_t { NORM, ADAM, SGD, TRUSTED };

// A tensor, or a parameter with what goes with it.
struct Entry {
    float *parameter;
    const float *grad;
    float *first, *second;
    int64_t count;
    // The first of the chunks that it is cut into, of those of all entries.
    int64_t first_chunk;
    Kind kind;
    double learning_rate;
    // Of Adam the decays of its means; of LARS the trust coefficient.
    double settings[2];
    // What the formulas read, rounded; kernels below write those that only the device knows.
    float factors[10];
};
static_assert(sizeof(Entry) == 120, "table.rs lays entries out");

// Places among the factors.
enum { SCALE = 0, WEIGHT_DECAY = 1, INTO = 3, STEP_SIZE = 7, ROOT = 8 };

// Places in the report of a step that is left out if its numbers are not finite, and what may have come of it, as in report.rs.
enum { LOSS, LENGTH, OUTCOME = REPORT_OUTCOME, LOSS_SCALE };
enum { NOT_FINITE, APPLIED = REPORT_APPLIED, OVERFLOWED };

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

__device__ void move_by_adam(const Entry &e, int64_t begin, int64_t end) {
    const float scale = e.factors[0], weight_decay = e.factors[1], keep = e.factors[2], beta1 = e.factors[3], one_minus_beta1 = e.factors[4];
    const float beta2 = e.factors[5], one_minus_beta2 = e.factors[6], step_size = e.factors[7], root = e.factors[8], eps = e.factors[9];
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
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

__device__ void move_by_velocity(const Entry &e, int64_t begin, int64_t end) {
    const float scale = e.factors[0], weight_decay = e.factors[1], momentum = e.factors[2], into = e.factors[3], out = e.factors[4];
    const bool nesterov = e.factors[5] != 0;
#pragma unroll 4
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        const float p = e.parameter[i];
        const float g = __fmul_rn(__fadd_rn(__fmul_rn(e.grad[i], scale), __fmul_rn(p, weight_decay)), into);
        const float velocity = __fadd_rn(__fmul_rn(e.first[i], momentum), g);
        const float by = nesterov ? __fadd_rn(g, __fmul_rn(velocity, momentum)) : velocity;
        e.first[i] = velocity;
        e.parameter[i] = __fsub_rn(p, __fmul_rn(out, by));
    }
}

// With a report, nothing moves unless it says so.
extern "C" __global__ void update_move(const Entry *entries, const double *report, int count) {
    if (report && report[OUTCOME] != APPLIED) return;
    // A copy: what is written below could be the table, as far as the compiler knows.
    const Entry e = entry_of(entries, count, blockIdx.x);
    const int64_t begin = (blockIdx.x - e.first_chunk) * CHUNK, end = min(begin + CHUNK, e.count);
    if (e.kind == ADAM) move_by_adam(e, begin, end);
    else move_by_velocity(e, begin, end);
}
HOST_KERNEL(update_move)

// Of every chunk the sum of the squares of the gradient.
extern "C" __global__ void update_squares(const Entry *entries, double *squares, int count) {
    const Entry e = entry_of(entries, count, blockIdx.x);
    const int64_t begin = (blockIdx.x - e.first_chunk) * CHUNK, end = min(begin + CHUNK, e.count);
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) sum += double(e.grad[i]) * double(e.grad[i]);
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}
HOST_KERNEL(update_squares)

// The sum over all chunks. One block.
extern "C" __global__ void update_total(const double *squares, double *total, int64_t chunks) {
    double sum = 0;
    for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += THREADS) sum += squares[chunk];
    sum = block_sum<THREADS>(sum);
    if (threadIdx.x == 0) *total = sum;
}
HOST_KERNEL(update_total)

__device__ bool is_finite(double number) {
    return number - number == 0;
}

// Places in what is known of the scale of a loss, and what becomes of it, as in finite.rs.
enum { OF_LOSS, STEPS_WITH_IT };
constexpr double BACKOFF = 0.5, GROWTH = 2, INTERVAL = 2000;

// Whether the step is made, and the factors of its entries that depend on the norm and on how many steps were made. One block.
//
// `loss_scale` and `after` are null where there is none.
extern "C" __global__ void update_decide(Entry *entries, const double *squares, const double *loss, double *steps, double *loss_scale,
                                         const double *after, double mean, double max_norm, int count, int64_t chunks, double *report) {
    double sum = 0;
    for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += THREADS) sum += squares[chunk];
    const double by = loss_scale ? loss_scale[OF_LOSS] : 1;
    mean /= by;
    const double norm = __dmul_rn(sqrt(block_sum<THREADS>(sum)), mean);
    const bool goes_on = !(after && after[OUTCOME] == NOT_FINITE) && is_finite(*loss);
    const int outcome = goes_on && is_finite(norm) ? APPLIED : goes_on && by > 1 ? OVERFLOWED : NOT_FINITE;
    const double number = *steps + 1;
    // All have read what changes now.
    __syncthreads();
    if (threadIdx.x == 0) {
        report[LOSS] = *loss;
        report[LENGTH] = norm;
        report[OUTCOME] = outcome;
        report[LOSS_SCALE] = by;
        if (outcome == APPLIED) *steps = number;
        if (loss_scale && outcome == OVERFLOWED) {
            loss_scale[OF_LOSS] = by * BACKOFF;
            loss_scale[STEPS_WITH_IT] = 0;
        } else if (loss_scale && outcome == APPLIED && ++loss_scale[STEPS_WITH_IT] == INTERVAL) {
            loss_scale[OF_LOSS] = by * GROWTH;
            loss_scale[STEPS_WITH_IT] = 0;
        }
    }
    const float scale = float(mean * fmin(max_norm / (norm + 1e-6), 1.0));
    for (int i = threadIdx.x; i < count; i += THREADS) {
        Entry &e = entries[i];
        e.factors[SCALE] = scale;
        if (e.kind != ADAM) continue;
        e.factors[STEP_SIZE] = float(e.learning_rate / (1 - pow(e.settings[0], number)));
        e.factors[ROOT] = float(sqrt(1 - pow(e.settings[1], number)));
    }
}
HOST_KERNEL(update_decide)

// Of every chunk of a parameter that LARS adapts, the sums of squares of the gradient as it is applied, and of the parameter.
extern "C" __global__ void update_weigh(const Entry *entries, double *squares, int count) {
    const Entry e = entry_of(entries, count, blockIdx.x);
    if (e.kind != TRUSTED) return;
    const float scale = e.factors[SCALE], weight_decay = e.factors[WEIGHT_DECAY];
    const int64_t begin = (blockIdx.x - e.first_chunk) * CHUNK, end = min(begin + CHUNK, e.count);
    double of_grad = 0, of_parameter = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += THREADS) {
        const float p = e.parameter[i];
        const float g = __fadd_rn(__fmul_rn(e.grad[i], scale), __fmul_rn(p, weight_decay));
        of_parameter += double(p) * double(p);
        of_grad += double(g) * double(g);
    }
    of_grad = block_sum<THREADS>(of_grad);
    of_parameter = block_sum<THREADS>(of_parameter);
    if (threadIdx.x == 0) {
        squares[2 * int64_t(blockIdx.x)] = of_grad;
        squares[2 * int64_t(blockIdx.x) + 1] = of_parameter;
    }
}
HOST_KERNEL(update_weigh)

// The learning rate of a parameter that LARS adapts, a block for every entry: times `coefficient · |p| / |gradient|`, but as it is where a
// norm is zero.
extern "C" __global__ void update_trust(Entry *entries, const double *squares, int count, int64_t chunks) {
    Entry &e = entries[blockIdx.x];
    if (e.kind != TRUSTED) return;
    const int64_t end = blockIdx.x + 1 < count ? entries[blockIdx.x + 1].first_chunk : chunks;
    double of_grad = 0, of_parameter = 0;
    for (int64_t chunk = e.first_chunk + threadIdx.x; chunk < end; chunk += THREADS) {
        of_grad += squares[2 * chunk];
        of_parameter += squares[2 * chunk + 1];
    }
    of_grad = sqrt(block_sum<THREADS>(of_grad));
    of_parameter = sqrt(block_sum<THREADS>(of_parameter));
    if (threadIdx.x == 0) {
        const double ratio = of_grad > 0 && of_parameter > 0 ? e.settings[0] * of_parameter / of_grad : 1.0;
        e.factors[INTO] = float(e.learning_rate * ratio);
    }
}
HOST_KERNEL(update_trust)
