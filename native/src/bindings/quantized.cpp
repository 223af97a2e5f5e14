// Weights that stay quantised.
#include <stdexcept>

#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "quantized/product.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace glinthawk {

namespace {

void make_shape(PackedShape* self, int num_outputs, int num_inputs, int group, int code_bits,
                int scale_bytes, int offset_bytes) {
    const PackedShape shape{num_outputs, num_inputs, group, code_bits, scale_bytes, offset_bytes};
    check(shape);
    new (self) PackedShape(shape);
}

void pack_weight(const PackedShape& shape, Address packed, Address codes, Address recode,
                 Address scales, Address offsets, int num_given) {
    if (num_given < 1 || num_given > shape.num_inputs)
        throw std::invalid_argument("a packed weight has no fewer inputs than a plain one");
    pack({pointer<std::uint8_t>(codes), pointer<std::uint8_t>(recode), pointer<float>(scales),
          pointer<float>(offsets), num_given},
         shape, pointer<std::byte>(packed));
}

void multiply_packed(const PackedShape& shape, Address out, Address rows, Address packed,
                     Address values, Address bias, float offset, std::size_t num_rows,
                     const std::string& dtype, const std::string& isa, int threads,
                     Address parallel, Address thread) {
    const QuantizedKernel* kernel = choose_quantized(isa, dtype_named(dtype));
    if (!kernel) throw std::invalid_argument(isa + " does not multiply rows of " + dtype);
    const QuantizedProduct product{shape,
                                   pointer<std::byte>(packed),
                                   pointer<float>(values),
                                   pointer<std::byte>(rows),
                                   pointer<float>(bias),
                                   pointer<std::byte>(out),
                                   num_rows,
                                   nullptr};
    multiply(product, offset, *kernel, threads, make_team(parallel, thread));
}

}  // namespace

void bind_quantized(nb::module_& m) {
    nb::class_<PackedShape>(m, "PackedShape")
        .def("__init__", &make_shape, "num_outputs"_a, "num_inputs"_a, "group"_a, "code_bits"_a,
             "scale_bytes"_a, "offset_bytes"_a)
        .def_prop_ro("bytes", &PackedShape::bytes);
    m.def("pack_quantized", &pack_weight, Released());
    m.def("multiply_quantized", &multiply_packed, Released());
    m.def("multiplies_quantized", [](const std::string& isa, const std::string& dtype) {
        return choose_quantized(isa, dtype_named(dtype)) != nullptr;
    });
}

}  // namespace glinthawk
