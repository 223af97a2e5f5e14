#include "quantized/kernel.hpp"

#include "kernels/isa.hpp"

namespace glinthawk {

namespace {

// Those of an instruction set, for both kinds of rows.
struct Choice {
    const QuantizedKernel* float32 = portable_quantized();
    const QuantizedKernel* bfloat16 = nullptr;
};

Choice choose(const std::string& isa) {
    const std::string name = choose_kernels(isa, DType::float32).name;
#if defined(__x86_64__)
    if (name == "avx2") return {avx2_quantized(), nullptr};
    if (name == "avx512") return {avx512_quantized(), nullptr};
    if (name == "avx512_bf16" || name == "amx")
        return {avx512_quantized(), has_byte_tables() ? avx512_bf16_quantized() : nullptr};
#endif
    return {};
}

}  // namespace

const QuantizedKernel* choose_quantized(const std::string& isa, DType dtype) {
    static const Choice best = choose("auto");  // asking a virtual CPU what it has takes long
    const Choice choice = isa == "auto" ? best : choose(isa);
    if (dtype == DType::float32) return choice.float32;
    return dtype == DType::bfloat16 ? choice.bfloat16 : nullptr;
}

}  // namespace glinthawk
