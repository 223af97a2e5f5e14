#include "cpu.hpp"

#include <stdexcept>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
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

const ProductKernel* choose_product() {
#if defined(__x86_64__)
    if (has_amx()) return amx_product();
#endif
    return nullptr;
}

#if defined(__linux__)

std::vector<int> allowed_cpus() {
    cpu_set_t set;
    std::vector<int> cpus;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
    if (cpus.empty()) cpus.push_back(0);
    return cpus;
}

void pin_to(const std::vector<int>& cpus) {
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu : cpus) CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);  // 0: this thread; failing costs speed only
}

void interleave_over_nodes(void* memory, std::size_t bytes) {
    std::string nodes;
    std::ifstream("/sys/devices/system/node/has_memory") >> nodes;
    if (nodes.find_first_of(",-") == std::string::npos) return;
    constexpr int kInterleave = 3;
    unsigned long mask = 0;  // the kernel drops nodes that are not there
    for (int node = 0; node < 64; ++node)
        if (std::ifstream("/sys/devices/system/node/node" + std::to_string(node) + "/meminfo"))
            mask |= 1UL << node;
    syscall(SYS_mbind, memory, bytes, kInterleave, &mask, sizeof mask * 8 + 1, 0);
}

#else

std::vector<int> allowed_cpus() {
    std::vector<int> cpus;
    for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu)
        cpus.push_back(int(cpu));
    return cpus;
}
void pin_to(const std::vector<int>&) {}
void interleave_over_nodes(void*, std::size_t) {}

#endif

void pin_to(int cpu) { pin_to(std::vector<int>{cpu}); }

}  // namespace glinthawk
