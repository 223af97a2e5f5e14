#include "bindings.hpp"

#include <nanobind/stl/string.h>

#include <limits>
#include <stdexcept>

#include "../cpu.hpp"
#include "rows.hpp"

namespace nb = nanobind;

namespace glinthawk {

namespace {

DType logits_dtype(const std::string& name) {
    if (name == "float32") return DType::float32;
    if (name == "bfloat16") return DType::bfloat16;
    if (name == "float16") return DType::float16;
    throw std::invalid_argument("logits are never " + name);
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void sample(std::uintptr_t tokens, std::uintptr_t rows, std::uintptr_t rules, std::size_t num_rows,
            std::size_t size, const std::string& dtype, const std::string& isa, int threads,
            std::uintptr_t parallel, std::uintptr_t thread) {
    if (size < 1 || size > std::size_t(std::numeric_limits<int>::max() - kSampleBlock))
        throw std::invalid_argument("a row has from one to some 2^31 logits");
    static const Kernels& best = *choose_kernels("auto", DType::float32).kernels;
    const Kernels& kernels = isa == "auto" ? best : *choose_kernels(isa, DType::float32).kernels;
    const Team team{pointer<void(void (*)(void*), void*, unsigned, unsigned)>(parallel),
                    pointer<int()>(thread)};
    sample_rows({pointer<const std::byte*>(rows), pointer<double>(rules), num_rows, int(size),
                 logits_dtype(dtype), pointer<std::int64_t>(tokens)},
                kernels, threads, team);
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def("sample_rows", &sample, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace glinthawk
