// What the stand-ins of the libraries ask that of the driver. It is exported by libcuda.so.1, which they link.
#pragma once

#include <cstddef>

extern "C" {
// Whether all of these bytes lie in one allocation of the device. If not, says so on stderr.
bool cuStandInHolds(const char *function, const char *what, const void *start, size_t bytes);
// Counts a call, for the file that STAND_IN_COUNTS names.
void cuStandInCount(const char *what);
// A line on stderr: why a call is refused.
void cuStandInSay(const char *function, const char *format, ...) __attribute__((format(printf, 2, 3)));
}
