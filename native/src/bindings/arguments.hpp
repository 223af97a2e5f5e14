// Arguments as Python gives them: addresses are plain numbers, dtypes are names.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "layout/dtype.hpp"
#include "machine/cpus.hpp"
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
inline DType dtype_named(const std::string& name) {
    if (name == "float32") return DType::float32;
    if (name == "bfloat16") return DType::bfloat16;
    if (name == "float16") return DType::float16;
    if (name == "int8") return DType::int8;
    throw std::invalid_argument("there is no dtype " + name);
}

// As many threads as CPUs, for 0.
inline int thread_count(int asked) { return asked > 0 ? asked : int(allowed_cpus().size()); }

// Of the addresses of its functions, or 0.
inline Team make_team(Address parallel, Address thread) {
    return {reinterpret_cast<decltype(Team::parallel)>(parallel),
            reinterpret_cast<decltype(Team::thread)>(thread)};
}

}  // namespace glinthawk
