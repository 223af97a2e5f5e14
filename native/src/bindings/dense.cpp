// What Tier 1 computes with weights.
#include <stdexcept>

#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "dense/product.hpp"
#include "dense/rows.hpp"
#include "kernels/isa.hpp"

namespace nb = nanobind;

namespace glinthawk {

namespace {

void norm_rows(Address out, Address rows, Address weight, std::size_t num_rows, int size,
               float epsilon, const std::string& dtype, int threads, Address parallel,
               Address thread) {
    rms_norm({pointer<std::byte>(out), pointer<std::byte>(rows), pointer<float>(weight), num_rows,
              size, epsilon, dtype_named(dtype)},
             threads, make_team(parallel, thread));
}

void rotate_rows(Address out, Address heads, std::size_t token_bytes, Address cos, Address sin,
                 std::size_t num_tokens, std::size_t num_heads, int size, const std::string& dtype,
                 int threads, Address parallel, Address thread) {
    rotate({pointer<std::byte>(out), pointer<std::byte>(heads), token_bytes,
            pointer<std::byte>(cos), pointer<std::byte>(sin), num_tokens, num_heads, size,
            dtype_named(dtype)},
           threads, make_team(parallel, thread));
}

void multiply_rows(Address out, Address rows, Address weight, Address bias, std::size_t num_rows,
                   int num_inputs, int num_outputs, bool emulated, int threads, Address parallel,
                   Address thread) {
    static const ProductKernel* hardware = choose_product();
    const ProductKernel* kernel = emulated ? amx_emulated_product() : hardware;
    if (!kernel) throw std::invalid_argument("this CPU has no AMX");
    if (num_inputs < kPanel || num_inputs % kPanel)
        throw std::invalid_argument("a packed weight has a multiple of 32 inputs");
    multiply({pointer<std::byte>(rows), pointer<std::byte>(weight), pointer<float>(bias),
              pointer<std::byte>(out), num_rows, num_inputs, num_outputs},
             *kernel, threads, make_team(parallel, thread));
}

}  // namespace

void bind_dense(nb::module_& m) {
    m.def("rms_norm", &norm_rows, Released());
    m.def("rotate", &rotate_rows, Released());
    m.def("multiply_rows", &multiply_rows, Released());
}

}  // namespace glinthawk
