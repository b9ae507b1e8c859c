// Running the threads of a launch, for driver.cpp.
#pragma once

#include <cstddef>

#include "cuda_on_host.hpp"

namespace stand_in {

// The kernel that runs or ran last, for messages; null before the first.
extern const Kernel *current_kernel;

// Runs all blocks, one after another. Whoever calls holds the lock of launches and has checked the limits.
void run_grid(Kernel &kernel, dim3 grid, dim3 block, size_t dynamic_shared_bytes, void **params);

}  // namespace stand_in
