// What this machine can do.
#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "kernels/isa.hpp"
#include "machine/roof.hpp"
#include "storage/checksum.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace glinthawk {

void bind_machine(nb::module_& m) {
    m.def("supported_isas", &supported_isas);
    m.def("checksum", [](Address memory, std::size_t bytes, bool plain) {
        return (plain ? checksum_plain : checksum)(pointer<std::byte>(memory), bytes);
    });
    nb::class_<Roof>(m, "Roof")
        .def("__init__",
             [](Roof* self, std::size_t bytes, int threads) {
                 const Kernels& kernels = *choose_kernels("auto", DType::float32).kernels;
                 new (self) Roof(bytes, thread_count(threads), kernels.read);
             },
             "bytes"_a, "threads"_a)
        .def("measure", &Roof::measure, Released());
}

}  // namespace glinthawk
