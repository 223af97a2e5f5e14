// Arguments as Python gives them: addresses are plain numbers, dtypes are names.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>

#include "layout/dtype.hpp"
#include "machine/pool.hpp"

namespace glinthawk {

using Address = std::uintptr_t;
// Every call that takes long releases the GIL.
using Released = nanobind::call_guard<nanobind::gil_scoped_release>;

template <class T>
T* pointer(Address address) {
    return reinterpret_cast<T*>(address);
}

// Throws std::invalid_argument for a name that no dtype has.
DType dtype_named(const std::string& name);

// As many threads as CPUs, for 0.
int thread_count(int asked);

// Of the addresses of its functions, or 0.
Team make_team(Address parallel, Address thread);

}  // namespace glinthawk
