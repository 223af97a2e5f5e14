#include "machine/roof.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

namespace glinthawk {

namespace {
constexpr std::size_t kPart = std::size_t(1) << 20;
}

Roof::Roof(std::size_t bytes, int threads, Read read)
    : arena_((bytes + kPart - 1) / kPart * kPart), pool_(threads), read_(read) {
    std::memset(arena_.data(), 1, arena_.size());
}

double Roof::measure() {
    return std::max({read_all(0), read_all(2 << 10), read_all(16 << 10)});
}

double Roof::read_all(std::size_t ahead) {
    std::atomic<std::size_t> next{0};
    std::atomic<float> sink{0};
    const auto begun = std::chrono::steady_clock::now();
    pool_.run([&](int) {
        float sum = 0;
        for (std::size_t at; (at = next.fetch_add(kPart)) + kPart <= arena_.size();)
            sum += read_(arena_.data() + at, kPart, ahead);
        sink.store(sum);
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begun;
    return double(arena_.size()) / seconds.count();
}

}  // namespace glinthawk
