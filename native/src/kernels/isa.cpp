#include "kernels/isa.hpp"

#include <stdexcept>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace glinthawk {

namespace {

struct Isa {
    const char* name;
    bool (*supported)();
    const Kernels* (*kernels)(DType);
};

#if defined(__x86_64__)

struct Registers {
    unsigned a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.a, &r.b, &r.c, &r.d);
    return r;
}

bool has(unsigned bits, std::initializer_list<int> wanted) {
    for (int bit : wanted)
        if (!(bits >> bit & 1)) return false;
    return true;
}

// Register states the operating system saves: bits 1-2 up to AVX, 5-7 AVX-512, 17-18 AMX.
unsigned saved_states() {
    if (!has(cpuid(1, 0).c, {27})) return 0;  // OSXSAVE
    unsigned low, high;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

bool has_avx2() {
    return has(saved_states(), {1, 2}) && has(cpuid(1, 0).c, {12, 28, 29})  // FMA, AVX, F16C
           && has(cpuid(7, 0).b, {5});
}
bool has_avx512() {
    return has_avx2() && has(saved_states(), {5, 6, 7}) &&
           has(cpuid(7, 0).b, {16, 17, 30, 31});  // F, DQ, BW, VL
}
bool has_avx512_bf16() {
    return has_avx512() && has(cpuid(7, 0).c, {11}) && has(cpuid(7, 1).a, {5});  // VNNI, BF16
}

// Linux lends the tile registers on request only.
bool may_use_tiles() {
#if defined(__linux__)
    constexpr int kRequestPermission = 0x1023, kTileData = 18;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}
bool has_amx() {
    return has_avx512_bf16() && has(saved_states(), {17, 18}) &&
           has(cpuid(7, 0).d, {22, 24, 25}) && may_use_tiles();  // BF16, TILE, INT8
}

#endif

bool always() { return true; }

constexpr Isa kIsas[] = {
    {"portable", always, portable_kernels},
    {"amx_emulated", always, amx_emulated_kernels},  // for tests where there is no AMX
#if defined(__x86_64__)
    {"avx2", has_avx2, avx2_kernels},
    {"avx512", has_avx512, avx512_kernels},
    {"avx512_bf16", has_avx512_bf16, avx512_bf16_kernels},
    {"amx", has_amx, amx_kernels},
#endif
};

std::string list(const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

}  // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : kIsas)
        if (isa.supported()) names.emplace_back(isa.name);
    return names;
}

IsaChoice choose_kernels(const std::string& name, DType kv) {
    const Isa* choice = nullptr;
    for (const Isa& isa : kIsas)
        if ((name == isa.name || (name == "auto" && isa.kernels != amx_emulated_kernels)) &&
            isa.supported())
            choice = &isa;
    if (!choice)
        throw std::invalid_argument("instruction set " + name + " is not one of: auto, " +
                                    list(supported_isas()));
    return {choice->name, choice->kernels(kv)};
}

bool has_byte_tables() {
#if defined(__x86_64__)
    return has_avx512() && has(cpuid(7, 0).c, {1});
#else
    return false;
#endif
}

const ProductKernel* choose_product() {
#if defined(__x86_64__)
    if (has_amx()) return amx_product();
#endif
    return nullptr;
}

}  // namespace glinthawk
