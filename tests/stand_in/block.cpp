// The threads of a block as fibers: each has a stack, runs until it waits for others, and goes on when all of them have come.
//
// Most threads of most kernels never wait. So a fiber is not tied to a thread: it takes one thread after another, which costs no more
// than a loop, and only where a thread waits does it stay with that thread, while a fresh fiber goes on with the rest. Switching is a
// few instructions; ucontext would make a system call each time.
#include "block.hpp"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#ifndef __x86_64__
#error "the stand-in switches stacks in x86-64 assembly"
#endif

// Saves what a call must preserve on the stack that is left, keeps its top in *from, and takes the same from the stack at `to`.
extern "C" void stand_in_switch(void **from, void *to);
asm(R"(
    .text
    .p2align 4
    .globl stand_in_switch
    .hidden stand_in_switch
    .type stand_in_switch, @function
stand_in_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size stand_in_switch, .-stand_in_switch
)");

namespace stand_in {

uint3 thread_index, block_index;
dim3 block_size, grid_size;
const Kernel *current_kernel;

Kernel *&Kernel::first() {
    static Kernel *first = nullptr;
    return first;
}

void fail(const char *format, ...) {
    std::fprintf(stderr, "stand-in: kernel %s: ", current_kernel ? current_kernel->name : "(none yet)");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
    std::abort();
}

namespace {

constexpr size_t STACK = 128 << 10, PAGE = 4096;

struct Fiber {
    void *top = nullptr;
    char *memory = nullptr;
    // The thread that it runs.
    unsigned thread = 0;
    // What it waits for, or got, in an exchange of its warp.
    Exchange kind = Exchange::WAIT;
    unsigned mask = 0, source = 0;
    uint64_t value = 0;
    const char *file = nullptr;
    int line = 0;
};

struct Warp {
    unsigned alive = 0, waiting = 0;
    Fiber *lanes[32] = {};
};

// All of a block; there is one at a time.
struct Block {
    Kernel *kernel = nullptr;
    void **params = nullptr;
    unsigned threads = 0, started = 0, alive = 0;
    bool backwards = false;
    void *scheduler = nullptr;
    Fiber *running = nullptr;
    std::vector<Fiber *> idle, at_barrier;
    std::deque<Fiber *> ready;
    Warp warps[32];
};

Block block;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<char> dynamic;

void set_thread(unsigned thread) {
    thread_index.x = thread % block_size.x;
    thread_index.y = thread / block_size.x % block_size.y;
    thread_index.z = thread / block_size.x / block_size.y;
}

// Back to the scheduler, until it goes on with this fiber.
void pause() {
    Fiber *self = block.running;
    stand_in_switch(&self->top, block.scheduler);
}

// Gives everybody in the exchange of `mask` what it asked for, if all who still run have come.
void finish_exchange(Warp &warp, unsigned mask, const Fiber *last) {
    const unsigned members = mask & warp.alive;
    if (members == 0 || (members & ~warp.waiting) != 0) return;
    uint64_t votes = 0;
    uint64_t values[32];
    for (int lane = 0; lane < 32; ++lane) {
        if (!(members >> lane & 1)) continue;
        values[lane] = warp.lanes[lane]->value;
        votes |= uint64_t(values[lane] != 0) << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
        if (!(members >> lane & 1)) continue;
        Fiber *fiber = warp.lanes[lane];
        // What a lane that takes no part holds is undefined: ones are NaN in every type.
        if (fiber->kind == Exchange::SHUFFLE) fiber->value = members >> fiber->source & 1 ? values[fiber->source] : ~uint64_t(0);
        else fiber->value = votes;
        if (fiber != last) block.ready.push_back(fiber);
    }
    warp.waiting &= ~members;
}

// The thread of the running fiber has returned from the kernel.
void finish_thread() {
    const unsigned thread = block.running->thread;
    Warp &warp = block.warps[thread / 32];
    warp.alive &= ~(1u << thread % 32);
    --block.alive;
    // Those who wait for it need not any more.
    for (unsigned left = warp.waiting & warp.alive; left; left &= left - 1) {
        const unsigned mask = warp.lanes[__builtin_ctz(left)]->mask;
        if (mask >> thread % 32 & 1) {
            finish_exchange(warp, mask, nullptr);
            break;
        }
    }
}

// What a fiber does from its first switch on; it never returns.
void live() {
    for (;;) {
        while (block.started < block.threads) {
            const unsigned number = block.started++, thread = block.backwards ? block.threads - 1 - number : number;
            block.running->thread = thread;
            set_thread(thread);
            block.kernel->run(*block.kernel, block.params);
            finish_thread();
        }
        block.idle.push_back(block.running);
        pause();
    }
}

Fiber *new_fiber() {
    auto fiber = std::make_unique<Fiber>();
    void *memory = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for the stack of a thread");
    fiber->memory = static_cast<char *>(memory);
    // Running over the end of a stack must crash here, not corrupt the next one.
    mprotect(memory, PAGE, PROT_NONE);
    // As if `live` had been called: above its frame lies a return address, 8 bytes from a multiple of 16, as the ABI has it.
    void **top = reinterpret_cast<void **>(fiber->memory + STACK) - 1;
    *top = nullptr;
    *--top = reinterpret_cast<void *>(live);
    top -= 6;
    std::memset(top, 0, 6 * sizeof(void *));
    fiber->top = top;
    fibers.push_back(std::move(fiber));
    return fibers.back().get();
}

void resume(Fiber *fiber) {
    block.running = fiber;
    set_thread(fiber->thread);
    stand_in_switch(&block.scheduler, fiber->top);
}

[[noreturn]] void deadlock() {
    unsigned shown = 0;
    for (const Fiber *fiber : block.at_barrier) {
        if (shown++ < 4) std::fprintf(stderr, "stand-in: thread %u waits at the barrier %s:%d\n", fiber->thread, fiber->file, fiber->line);
    }
    shown = 0;
    for (const Warp &warp : block.warps) {
        for (unsigned left = warp.waiting; left; left &= left - 1) {
            const Fiber *fiber = warp.lanes[__builtin_ctz(left)];
            if (shown++ < 4) {
                std::fprintf(stderr, "stand-in: thread %u waits for lanes %08x of its warp at %s:%d\n", fiber->thread, fiber->mask,
                             fiber->file, fiber->line);
            }
        }
    }
    fail("deadlock in block (%u, %u, %u): of %u threads that run %zu wait at a barrier", block_index.x, block_index.y, block_index.z,
         block.alive, block.at_barrier.size());
}

void run_block() {
    block.started = 0;
    block.alive = block.threads;
    for (unsigned warp = 0; warp * 32 < block.threads; ++warp) {
        const unsigned lanes = block.threads - warp * 32;
        block.warps[warp].alive = lanes >= 32 ? ~0u : (1u << lanes) - 1;
        block.warps[warp].waiting = 0;
    }
    while (block.alive > 0) {
        if (!block.ready.empty()) {
            Fiber *fiber = block.ready.front();
            block.ready.pop_front();
            resume(fiber);
        } else if (block.started < block.threads) {
            Fiber *fiber;
            if (block.idle.empty()) {
                fiber = new_fiber();
            } else {
                fiber = block.idle.back();
                block.idle.pop_back();
            }
            resume(fiber);
        } else if (block.at_barrier.size() == block.alive) {
            const Fiber *first = block.at_barrier.front();
            for (const Fiber *fiber : block.at_barrier) {
                if (fiber->line != first->line || std::strcmp(fiber->file, first->file) != 0) {
                    fail("threads of a block wait at different barriers: %u at %s:%d, %u at %s:%d", first->thread, first->file,
                         first->line, fiber->thread, fiber->file, fiber->line);
                }
            }
            block.ready.assign(block.at_barrier.begin(), block.at_barrier.end());
            block.at_barrier.clear();
        } else {
            deadlock();
        }
    }
}

}  // namespace

void block_barrier(const char *file, int line) {
    Fiber *self = block.running;
    self->file = file;
    self->line = line;
    block.at_barrier.push_back(self);
    pause();
}

uint64_t warp_exchange(Exchange kind, unsigned mask, uint64_t value, unsigned source, const char *file, int line) {
    Fiber *self = block.running;
    const unsigned lane = self->thread % 32;
    Warp &warp = block.warps[self->thread / 32];
    if (!(mask >> lane & 1)) fail("%s:%d: lane %u is not in the mask %08x that it gives", file, line, lane, mask);
    for (unsigned left = warp.waiting & mask; left; left &= left - 1) {
        const Fiber *other = warp.lanes[__builtin_ctz(left)];
        if (other->mask != mask || other->kind != kind) {
            fail("lanes of a warp do different things: %u at %s:%d with mask %08x, %u at %s:%d with mask %08x", lane, file, line, mask,
                 other->thread % 32, other->file, other->line, other->mask);
        }
    }
    self->kind = kind;
    self->mask = mask;
    self->value = value;
    self->source = source;
    self->file = file;
    self->line = line;
    warp.lanes[lane] = self;
    warp.waiting |= 1u << lane;
    finish_exchange(warp, mask, self);
    // The last one to come goes on at once.
    if (warp.waiting >> lane & 1) pause();
    return self->value;
}

int lane() {
    return int(block.running->thread % 32);
}

void *dynamic_shared() {
    return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(dynamic.data()) + 127) & ~uintptr_t(127));
}

void run_grid(Kernel &kernel, dim3 grid, dim3 size, size_t dynamic_shared_bytes, void **params) {
    constexpr size_t GUARD = 256;
    constexpr unsigned char GUARD_BYTE = 0xa5;
    current_kernel = &kernel;
    block.kernel = &kernel;
    block.params = params;
    block.threads = size.x * size.y * size.z;
    // A kernel that forgets a barrier can be right in one order; tests that want to know run it in the other one, too.
    static const char *order = std::getenv("STAND_IN_ORDER");
    block.backwards = order && std::strcmp(order, "backwards") == 0;
    grid_size = grid;
    block_size = size;
    dynamic.assign(dynamic_shared_bytes + GUARD + 127, char(GUARD_BYTE));
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; ++i) {
        const uint64_t at = block.backwards ? blocks - 1 - i : i;
        block_index.x = unsigned(at % grid.x);
        block_index.y = unsigned(at / grid.x % grid.y);
        block_index.z = unsigned(at / grid.x / grid.y);
        // What the last block left is not there on a GPU either, or not for sure.
        if (dynamic_shared_bytes) std::memset(dynamic_shared(), 0xff, dynamic_shared_bytes);
        run_block();
    }
    const unsigned char *guard = static_cast<unsigned char *>(dynamic_shared()) + dynamic_shared_bytes;
    for (size_t i = 0; i < GUARD; ++i) {
        if (guard[i] != GUARD_BYTE) fail("it wrote %zu bytes behind its %zu bytes of dynamic shared memory", i, dynamic_shared_bytes);
    }
}

}  // namespace stand_in
