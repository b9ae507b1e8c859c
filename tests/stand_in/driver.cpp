// The CUDA driver without a GPU: libcuda.so.1.
//
// Device memory is memory of the host, streams do everything at once, and a kernel is a function that block.cpp runs for every thread.
// What is not here answers CUDA_ERROR_NOT_SUPPORTED and says its name: `build` makes these functions of the names in cuda.h.
//
// It is stricter than a GPU where that finds mistakes: fresh memory is NaN, memory has guards on both sides that must stay as they are,
// copies must lie within one allocation, and a call without a context is refused.
#include <cuda.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "block.hpp"
#include "stand_in.hpp"

using stand_in::Kernel;

namespace {

long long number_from(const char *variable, long long otherwise) {
    const char *text = std::getenv(variable);
    return text && *text ? std::atoll(text) : otherwise;
}

// ---- Counts

std::mutex counts_lock;

std::map<std::string, uint64_t> &counts() {
    // Never destroyed: other destructors may still count.
    static auto *counts = new std::map<std::string, uint64_t>{
        {"alloc", 0},       {"memcpy_dtoh", 0}, {"memcpy_dtoh_pinned", 0}, {"memcpy_htod", 0}, {"memcpy_htod_pinned", 0},
        {"synchronize", 0}};
    return *counts;
}

void write_counts(const char *path) {
    std::FILE *file = std::fopen(path, "w");
    if (!file) {
        cuStandInSay("STAND_IN_COUNTS", "%s cannot be written", path);
        return;
    }
    std::lock_guard lock(counts_lock);
    std::fputs("{", file);
    const char *separator = "\n";
    for (const auto &[name, count] : counts()) {
        std::fprintf(file, "%s  \"%s\": %llu", separator, name.c_str(), static_cast<unsigned long long>(count));
        separator = ",\n";
    }
    for (const Kernel *kernel = Kernel::first(); kernel; kernel = kernel->next) {
        if (kernel->launches == 0) continue;
        std::fprintf(file, "%s  \"%s\": %llu", separator, kernel->name, static_cast<unsigned long long>(kernel->launches));
        separator = ",\n";
    }
    std::fputs("\n}\n", file);
    std::fclose(file);
}

// ---- Devices, contexts, streams, events

struct Device {
    size_t used = 0, most_used = 0;
    uint64_t release_threshold = 0;
};

constexpr int MOST_DEVICES = 16;
Device devices[MOST_DEVICES];

}  // namespace

// The opaque types of cuda.h.
struct CUctx_st {
    int device;
};
struct CUstream_st {
    int device;
};
struct CUevent_st {
    bool has_time, is_recorded = false;
    // How many copies to the host came before it.
    uint64_t arrivals = 0;
    std::chrono::steady_clock::time_point at = {};
};
struct CUmod_st {
    // Empty unless the image is PTX.
    std::string ptx;
};
struct CUmemPoolHandle_st {
    int device;
};

namespace {

bool is_ready = false;
CUctx_st primary[MOST_DEVICES];
CUmemPoolHandle_st pools[MOST_DEVICES];
thread_local CUcontext current = nullptr;

// Of allocations and handles.
std::mutex lock;
std::set<CUstream> streams;

int device_count() {
    static const int count = int(number_from("STAND_IN_DEVICES", 1));
    return count < MOST_DEVICES ? count : MOST_DEVICES;
}

size_t device_memory() {
    static const size_t memory = size_t(number_from("STAND_IN_MEMORY", 4ll << 30));
    return memory;
}

bool is_own(CUstream stream) {
    return stream != nullptr && stream != CU_STREAM_LEGACY && stream != CU_STREAM_PER_THREAD;
}

// The device on which a call works; -1 if it has none.
int device_of(const char *function, CUstream stream) {
    if (is_own(stream)) {
        std::lock_guard guard(lock);
        if (streams.count(stream)) return stream->device;
        cuStandInSay(function, "the stream %p does not exist", static_cast<void *>(stream));
        return -1;
    }
    if (current) return current->device;
    cuStandInSay(function, "this thread has no current context");
    return -1;
}

// ---- Memory

// Reads as NaN in every type, as 0xff does, but is something else.
constexpr unsigned char GUARD_BYTES[2] = {0xf5, 0xff};
constexpr size_t GUARD = 256;

struct Allocation {
    size_t bytes;
    int device;
    // As malloc gave it.
    void *memory;
};

std::map<uintptr_t, Allocation> allocations;

void set_guard(uintptr_t start) {
    auto *bytes = reinterpret_cast<unsigned char *>(start);
    for (size_t i = 0; i < GUARD; ++i) bytes[i] = GUARD_BYTES[(start + i) % 2];
}

void check_guard(uintptr_t start, const char *side, uintptr_t address, size_t size) {
    const auto *bytes = reinterpret_cast<const unsigned char *>(start);
    for (size_t i = 0; i < GUARD; ++i) {
        if (bytes[i] != GUARD_BYTES[(start + i) % 2]) {
            stand_in::fail("something was written %s the %zu bytes at %#zx, at byte %td; the kernel named here is the last that ran: set "
                           "STAND_IN_CHECK=launch to look after every one",
                           side, size, address, ptrdiff_t(start + i - address));
        }
    }
}

void check_guards(uintptr_t address, const Allocation &allocation) {
    check_guard(address - GUARD, "before", address, allocation.bytes);
    check_guard(address + allocation.bytes, "behind", address, allocation.bytes);
}

void check_all_guards() {
    std::lock_guard guard(lock);
    for (const auto &[address, allocation] : allocations) check_guards(address, allocation);
}

CUresult allocate(CUdeviceptr *to, size_t bytes, int device) {
    cuStandInCount("alloc");
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard guard(lock);
    Device &own = devices[device];
    if (bytes > device_memory() || own.used > device_memory() - bytes) return CUDA_ERROR_OUT_OF_MEMORY;
    // The driver gives multiples of 256 bytes.
    void *memory = std::aligned_alloc(256, (GUARD + bytes + GUARD + 255) / 256 * 256);
    if (!memory) return CUDA_ERROR_OUT_OF_MEMORY;
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory) + GUARD;
    std::memset(reinterpret_cast<void *>(address), 0xff, bytes);
    set_guard(address - GUARD);
    set_guard(address + bytes);
    allocations[address] = {bytes, device, memory};
    own.used += bytes;
    if (own.used > own.most_used) own.most_used = own.used;
    *to = address;
    return CUDA_SUCCESS;
}

// See below: copies to the device that are still to be made.
void depart();

CUresult release(const char *function, CUdeviceptr address) {
    if (address == 0) return CUDA_SUCCESS;
    depart();
    std::lock_guard guard(lock);
    const auto found = allocations.find(address);
    if (found == allocations.end()) {
        cuStandInSay(function, "nothing was allocated at %#llx, or it was freed", address);
        return CUDA_ERROR_INVALID_VALUE;
    }
    check_guards(address, found->second);
    devices[found->second.device].used -= found->second.bytes;
    // Whoever still reads it shall notice, as long as nobody else has it.
    std::memset(reinterpret_cast<void *>(address), 0xff, found->second.bytes);
    std::free(found->second.memory);
    allocations.erase(found);
    return CUDA_SUCCESS;
}

void *pointer(CUdeviceptr address) {
    return reinterpret_cast<void *>(address);
}

// ---- Copies from and to the host
//
// A GPU copies page-locked memory by itself: what it is to send must stay as it is until an event says that it is gone, and what it is to
// bring is not there before. So such copies are made as late as a program can tell: those to the host when it waits, those to the device
// when the stream does something else, as nothing but a kernel or a copy can see them.

// Page-locked memory: where each piece begins, and its bytes.
std::map<uintptr_t, size_t> pinned;

bool is_pinned(const void *start, size_t bytes) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(start);
    std::lock_guard guard(lock);
    const auto after = pinned.upper_bound(address);
    if (after == pinned.begin()) return false;
    const auto &[begin, length] = *std::prev(after);
    return address - begin <= length && bytes <= length - (address - begin);
}

struct Departure {
    CUdeviceptr to;
    const void *from;
    size_t bytes;
};

struct Arrival {
    uint64_t number;
    void *to;
    std::vector<char> bytes;
};

std::mutex late_lock;
std::vector<Departure> departures;
std::vector<Arrival> arrivals;
uint64_t arrivals_so_far = 0;

// The stream goes on to something else.
void depart() {
    std::lock_guard guard(late_lock);
    for (const Departure &copy : departures) std::memcpy(pointer(copy.to), copy.from, copy.bytes);
    departures.clear();
}

// The host waits for the first so many copies.
void arrive(uint64_t count) {
    depart();
    std::lock_guard guard(late_lock);
    std::vector<Arrival> later;
    for (Arrival &copy : arrivals) {
        if (copy.number <= count) std::memcpy(copy.to, copy.bytes.data(), copy.bytes.size());
        else later.push_back(std::move(copy));
    }
    arrivals = std::move(later);
}

// Streams are done with everything else at once, so that waiting for one has nothing to do but that and to check.
CUresult synchronize(uint64_t arrivals = UINT64_MAX) {
    cuStandInCount("synchronize");
    arrive(arrivals);
    check_all_guards();
    return CUDA_SUCCESS;
}

CUresult copy_in(const char *function, CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    if (device_of(function, stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    const bool is_late = is_pinned(from, bytes);
    cuStandInCount(is_late ? "memcpy_htod_pinned" : "memcpy_htod");
    if (!cuStandInHolds(function, "the destination", pointer(to), bytes)) return CUDA_ERROR_INVALID_VALUE;
    depart();
    if (is_late) {
        std::lock_guard guard(late_lock);
        departures.push_back({to, from, bytes});
    } else if (bytes) {
        std::memcpy(pointer(to), from, bytes);
    }
    return CUDA_SUCCESS;
}

CUresult copy_out(const char *function, void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (device_of(function, stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    const bool is_late = is_pinned(to, bytes);
    cuStandInCount(is_late ? "memcpy_dtoh_pinned" : "memcpy_dtoh");
    if (!cuStandInHolds(function, "the source", pointer(from), bytes)) return CUDA_ERROR_INVALID_VALUE;
    depart();
    if (is_late) {
        const char *source = static_cast<const char *>(pointer(from));
        std::lock_guard guard(late_lock);
        arrivals.push_back({++arrivals_so_far, to, std::vector<char>(source, source + bytes)});
        // Whoever reads it too soon finds NaN.
        std::memset(to, 0xff, bytes);
    } else if (bytes) {
        std::memcpy(to, pointer(from), bytes);
    }
    return CUDA_SUCCESS;
}

CUresult copy_within(const char *function, CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (device_of(function, stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    cuStandInCount("memcpy_dtod");
    depart();
    if (!cuStandInHolds(function, "the destination", pointer(to), bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (!cuStandInHolds(function, "the source", pointer(from), bytes)) return CUDA_ERROR_INVALID_VALUE;
    if (bytes && to < from + bytes && from < to + bytes) {
        cuStandInSay(function, "source and destination overlap");
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (bytes) std::memcpy(pointer(to), pointer(from), bytes);
    return CUDA_SUCCESS;
}

template <class T>
CUresult set_memory(const char *function, CUdeviceptr to, T value, size_t count, CUstream stream) {
    if (device_of(function, stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    cuStandInCount("memset");
    depart();
    if (to % sizeof(T) || !cuStandInHolds(function, "the destination", pointer(to), count * sizeof(T))) return CUDA_ERROR_INVALID_VALUE;
    T *numbers = static_cast<T *>(pointer(to));
    for (size_t i = 0; i < count; ++i) numbers[i] = value;
    return CUDA_SUCCESS;
}

// ---- Launches

std::mutex launch_lock;

Kernel *kernel_of(CUfunction function) {
    return reinterpret_cast<Kernel *>(function);
}

// The attributes that are limits of a launch, and what else callers ask for.
int attribute_of(CUdevice_attribute attribute) {
    static const int capability = int(number_from("STAND_IN_COMPUTE_CAP", 90));
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return capability / 10;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return capability % 10;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return INT32_MAX;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return 227 << 10;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return 228 << 10;
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return 1 << 10;
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 64 << 10;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return 4;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return 2048;
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return 32;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return 65536;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return 1000000;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 1000000;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 256;
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 4 << 20;
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH: return INT32_MAX;
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT: return 512;
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: return 1;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: return 1;
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY: return 1;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 2;
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS: return 1;
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED: return 1;
    default: return 0;
    }
}

CUresult launch(CUfunction function, dim3 grid, dim3 size, unsigned shared, CUstream stream, void **params) {
    if (!function) return CUDA_ERROR_INVALID_HANDLE;
    Kernel &kernel = *kernel_of(function);
    if (device_of("cuLaunchKernel", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    const bool fits = grid.x >= 1 && grid.x <= unsigned(INT32_MAX) && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 &&
                      size.x >= 1 && size.x <= 1024 && size.y >= 1 && size.y <= 1024 && size.z >= 1 && size.z <= 64 &&
                      size.x * size.y * size.z <= 1024 && shared <= unsigned(kernel.most_dynamic_shared);
    if (!fits) {
        cuStandInSay(kernel.name, "no device runs (%u, %u, %u) blocks of (%u, %u, %u) threads with %u bytes of dynamic shared memory",
                     grid.x, grid.y, grid.z, size.x, size.y, size.z, shared);
        return CUDA_ERROR_INVALID_VALUE;
    }
    static const char *check = std::getenv("STAND_IN_CHECK");
    depart();
    std::lock_guard guard(launch_lock);
    ++kernel.launches;
    stand_in::run_grid(kernel, grid, size, shared, params);
    if (check && std::string_view(check) == "launch") check_all_guards();
    return CUDA_SUCCESS;
}

// Errors that callers meet here, by their names.
struct Described {
    CUresult error;
    const char *name, *text;
};

constexpr Described DESCRIBED[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

// Writes what STAND_IN_COUNTS asks for, and looks at the guards of what nobody has freed.
struct AtExit {
    ~AtExit() {
        check_all_guards();
        if (const char *path = std::getenv("STAND_IN_COUNTS")) write_counts(path);
    }
} at_exit;

}  // namespace

bool cuStandInHolds(const char *function, const char *what, const void *start, size_t bytes) {
    if (bytes == 0) return true;
    // Whoever asks is about to read or write there.
    depart();
    const uintptr_t address = reinterpret_cast<uintptr_t>(start);
    std::lock_guard guard(lock);
    auto after = allocations.upper_bound(address);
    if (after != allocations.begin()) {
        const auto &[begin, allocation] = *std::prev(after);
        if (address - begin <= allocation.bytes && bytes <= allocation.bytes - (address - begin)) return true;
    }
    cuStandInSay(function, "%s, %zu bytes at %p, is not within an allocation", what, bytes, start);
    return false;
}

void cuStandInCount(const char *what) {
    std::lock_guard guard(counts_lock);
    ++counts()[what];
}

void cuStandInSay(const char *function, const char *format, ...) {
    std::fprintf(stderr, "stand-in: %s: ", function);
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fputc('\n', stderr);
}

// Many names below are macros of cuda.h for the version that programs link, such as cuMemAlloc_v2.
extern "C" {

// ---- The driver and its devices

CUresult cuInit(unsigned int flags) {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (device_count() < 1) return CUDA_ERROR_NO_DEVICE;
    for (int i = 0; i < MOST_DEVICES; ++i) primary[i].device = pools[i].device = i;
    is_ready = true;
    return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    *count = device_count();
    return is_ready ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    if (!is_ready) return CUDA_ERROR_NOT_INITIALIZED;
    if (ordinal < 0 || ordinal >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    std::snprintf(name, size_t(length), "stand-in");
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
    std::memset(uuid, 0, sizeof *uuid);
    uuid->bytes[0] = char(device);
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice) {
    *bytes = device_memory();
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice) {
    *value = attribute_of(attribute);
    return CUDA_SUCCESS;
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice, CUdevice) {
    *can = 0;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
    for (const Described &known : DESCRIBED) {
        if (known.error == error) {
            *name = known.name;
            return CUDA_SUCCESS;
        }
    }
    *name = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    for (const Described &known : DESCRIBED) {
        if (known.error == error) {
            *text = known.text;
            return CUDA_SUCCESS;
        }
    }
    *text = nullptr;
    return CUDA_ERROR_INVALID_VALUE;
}

// ---- Contexts

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    if (device < 0 || device >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
    *context = &primary[device];
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) {
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    current = context;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext *context) {
    *context = current;
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice *device) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *device = current->device;
    return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int) {
    return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    return synchronize();
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return CUDA_SUCCESS;
}

// ---- Streams and events

CUresult cuStreamCreate(CUstream *stream, unsigned int) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *stream = new CUstream_st{current->device};
    std::lock_guard guard(lock);
    streams.insert(*stream);
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int) {
    return cuStreamCreate(stream, flags);
}

CUresult cuStreamDestroy(CUstream stream) {
    std::lock_guard guard(lock);
    if (streams.erase(stream) == 0) return CUDA_ERROR_INVALID_HANDLE;
    delete stream;
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    if (device_of("cuStreamSynchronize", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    return synchronize();
}

CUresult cuStreamQuery(CUstream stream) {
    return device_of("cuStreamQuery", stream) < 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int) {
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    return device_of("cuStreamWaitEvent", stream) < 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus *status) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuStreamGetCaptureInfo(CUstream, CUstreamCaptureStatus *status, cuuint64_t *, CUgraph *, const CUgraphNode **,
                                const CUgraphEdgeData **, size_t *) {
    *status = CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *data) {
    if (device_of("cuLaunchHostFunc", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    function(data);
    return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    *event = new CUevent_st{!(flags & CU_EVENT_DISABLE_TIMING)};
    return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    delete event;
    return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (device_of("cuEventRecord", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    event->is_recorded = true;
    {
        std::lock_guard guard(late_lock);
        event->arrivals = arrivals_so_far;
    }
    event->at = std::chrono::steady_clock::now();
    return CUDA_SUCCESS;
}

CUresult cuEventQuery(CUevent event) {
    return event ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult cuEventSynchronize(CUevent event) {
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    // Nothing was recorded: there is nothing to wait for.
    return event->is_recorded ? synchronize(event->arrivals) : CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    for (const CUevent event : {start, end}) {
        if (!event || !event->has_time || !event->is_recorded) return CUDA_ERROR_INVALID_HANDLE;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count();
    return CUDA_SUCCESS;
}

// ---- Memory

CUresult cuMemAlloc(CUdeviceptr *to, size_t bytes) {
    const int device = device_of("cuMemAlloc", nullptr);
    if (device < 0) return CUDA_ERROR_INVALID_CONTEXT;
    return allocate(to, bytes, device);
}

CUresult cuMemAllocAsync(CUdeviceptr *to, size_t bytes, CUstream stream) {
    const int device = device_of("cuMemAllocAsync", stream);
    return device < 0 ? CUDA_ERROR_INVALID_CONTEXT : allocate(to, bytes, device);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *to, size_t bytes, CUmemoryPool pool, CUstream stream) {
    if (device_of("cuMemAllocFromPoolAsync", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    return allocate(to, bytes, pool->device);
}

CUresult cuMemFree(CUdeviceptr address) {
    return release("cuMemFree", address);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
    if (device_of("cuMemFreeAsync", stream) < 0) return CUDA_ERROR_INVALID_CONTEXT;
    return release("cuMemFreeAsync", address);
}

CUresult cuMemGetInfo(size_t *free, size_t *total) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    std::lock_guard guard(lock);
    *total = device_memory();
    *free = device_memory() - devices[current->device].used;
    return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **to, size_t bytes, unsigned int) {
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    *to = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*to) return CUDA_ERROR_OUT_OF_MEMORY;
    std::memset(*to, 0xff, bytes);
    std::lock_guard guard(lock);
    pinned[reinterpret_cast<uintptr_t>(*to)] = bytes;
    return CUDA_SUCCESS;
}

CUresult cuMemAllocHost(void **to, size_t bytes) {
    return cuMemHostAlloc(to, bytes, 0);
}

CUresult cuMemFreeHost(void *address) {
    // The driver waits for copies of it.
    arrive(UINT64_MAX);
    {
        std::lock_guard guard(lock);
        if (pinned.erase(reinterpret_cast<uintptr_t>(address)) == 0) {
            cuStandInSay("cuMemFreeHost", "nothing was allocated at %p, or it was freed", address);
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    std::free(address);
    return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t bytes) {
    return copy_in("cuMemcpyHtoD", to, from, bytes, nullptr);
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    return copy_in("cuMemcpyHtoDAsync", to, from, bytes, stream);
}

CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t bytes) {
    return copy_out("cuMemcpyDtoH", to, from, bytes, nullptr);
}

CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_out("cuMemcpyDtoHAsync", to, from, bytes, stream);
}

CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    return copy_within("cuMemcpyDtoD", to, from, bytes, nullptr);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    return copy_within("cuMemcpyDtoDAsync", to, from, bytes, stream);
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return copy_within("cuMemcpyPeerAsync", to, from, bytes, stream);
}

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) {
    return set_memory("cuMemsetD8", to, value, count, nullptr);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) {
    return set_memory("cuMemsetD8Async", to, value, count, stream);
}

CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) {
    return set_memory("cuMemsetD16", to, value, count, nullptr);
}

CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) {
    return set_memory("cuMemsetD16Async", to, value, count, stream);
}

CUresult cuMemsetD32(CUdeviceptr to, unsigned int value, size_t count) {
    return set_memory("cuMemsetD32", to, value, count, nullptr);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned int value, size_t count, CUstream stream) {
    return set_memory("cuMemsetD32Async", to, value, count, stream);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device) {
    if (device < 0 || device >= device_count()) return CUDA_ERROR_INVALID_DEVICE;
    *pool = &pools[device];
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice device) {
    return cuDeviceGetDefaultMemPool(pool, device);
}

CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) {
    return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    std::lock_guard guard(lock);
    Device &device = devices[pool->device];
    const uint64_t number = *static_cast<uint64_t *>(value);
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: device.release_threshold = number; return CUDA_SUCCESS;
    // The high marks may only be reset.
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        if (number != 0) return CUDA_ERROR_INVALID_VALUE;
        device.most_used = device.used;
        return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: return CUDA_ERROR_INVALID_VALUE;
    default: return CUDA_SUCCESS;
    }
}

CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attribute, void *value) {
    std::lock_guard guard(lock);
    const Device &device = devices[pool->device];
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *static_cast<uint64_t *>(value) = device.release_threshold; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *static_cast<uint64_t *>(value) = device.used; return CUDA_SUCCESS;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *static_cast<uint64_t *>(value) = device.most_used; return CUDA_SUCCESS;
    default: *static_cast<int *>(value) = 1; return CUDA_SUCCESS;
    }
}

// ---- Modules, functions and launches

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    if (!image) return CUDA_ERROR_INVALID_VALUE;
    *module = new CUmod_st;
    // An image is text, or begins with bytes that no text has.
    const char *text = static_cast<const char *>(image);
    const bool is_text = text[0] == '/' || text[0] == '\n' || text[0] == '.' || text[0] == ' ';
    if (is_text && std::strstr(text, ".version")) (*module)->ptx = text;
    return CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int, CUjit_option *, void **) {
    return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule module) {
    delete module;
    return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    // What runs is the kernel that was linked in here, but a GPU would find it only where the image has it.
    if (!module->ptx.empty() && module->ptx.find(std::string(".entry ") + name + "(") == std::string::npos) {
        cuStandInSay("cuModuleGetFunction", "the module has no kernel %s", name);
        return CUDA_ERROR_NOT_FOUND;
    }
    for (Kernel *kernel = Kernel::first(); kernel; kernel = kernel->next) {
        if (std::strcmp(kernel->name, name) == 0) {
            *function = reinterpret_cast<CUfunction>(kernel);
            return CUDA_SUCCESS;
        }
    }
    cuStandInSay("cuModuleGetFunction", "no kernel %s was compiled for the host: is it listed with HOST_KERNEL?", name);
    return CUDA_ERROR_NOT_FOUND;
}

CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = kernel_of(function)->most_dynamic_shared; break;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = 10 * attribute_of(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) +
                 attribute_of(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
        break;
    default: *value = 0;
    }
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_SUCCESS;
    if (value < 0 || value > 227 << 10) return CUDA_ERROR_INVALID_VALUE;
    kernel_of(function)->most_dynamic_shared = value;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) {
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction, int threads, size_t shared) {
    if (threads < 1 || threads > 1024) return CUDA_ERROR_INVALID_VALUE;
    const int by_threads = 2048 / threads, by_shared = shared ? int((228 << 10) / (shared + 1024)) : 32;
    *blocks = min(min(by_threads, by_shared), 32);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function, int threads, size_t shared, unsigned int) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t *bytes, CUfunction, int blocks, int) {
    if (blocks < 1) return CUDA_ERROR_INVALID_VALUE;
    *bytes = min(size_t(227 << 10), size_t(228 << 10) / size_t(blocks) - 1024);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSize(int *grid, int *block, CUfunction, CUoccupancyB2DSize, size_t, int most) {
    *block = most > 0 ? min(most, 1024) : 1024;
    *grid = 4 * (2048 / *block);
    return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *grid, int *block, CUfunction function, CUoccupancyB2DSize sizes, size_t shared,
                                                   int most, unsigned int) {
    return cuOccupancyMaxPotentialBlockSize(grid, block, function, sizes, shared, most);
}

CUresult cuLaunchKernel(CUfunction function, unsigned int grid_x, unsigned int grid_y, unsigned int grid_z, unsigned int block_x,
                        unsigned int block_y, unsigned int block_z, unsigned int shared, CUstream stream, void **params, void **extra) {
    if (extra) return CUDA_ERROR_NOT_SUPPORTED;
    return launch(function, dim3(grid_x, grid_y, grid_z), dim3(block_x, block_y, block_z), shared, stream, params);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **params, void **extra) {
    return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY,
                          config->blockDimZ, config->sharedMemBytes, config->hStream, params, extra);
}

CUresult cuProfilerStart() {
    return CUDA_SUCCESS;
}

CUresult cuProfilerStop() {
    return CUDA_SUCCESS;
}

}  // extern "C"
