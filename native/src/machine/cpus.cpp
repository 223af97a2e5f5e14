#include "machine/cpus.hpp"

#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <string>
#else
#include <algorithm>
#include <thread>
#endif

namespace glinthawk {

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
