#include "storage/checksum.hpp"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

namespace glinthawk {

namespace {

constexpr std::size_t kLanes4 = 4, kWord = 8;

// One byte at a time, of the reflected polynomial 0x1EDC6F41 (RFC 3720, appendix B.4).
constexpr std::array<std::uint32_t, 256> make_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t sum = byte;
        for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ (sum & 1 ? 0x82F63B78u : 0u);
        table[byte] = sum;
    }
    return table;
}

constexpr auto kTable = make_table();

std::uint64_t word_at(const std::byte* memory) {
    std::uint64_t word;
    std::memcpy(&word, memory, kWord);
    return word;
}

std::uint32_t add_plain(std::uint32_t sum, std::uint64_t word) {
    for (std::size_t i = 0; i < kWord; ++i, word >>= 8)
        sum = (sum >> 8) ^ kTable[(sum ^ std::uint32_t(word)) & 0xFF];
    return sum;
}

#if defined(__x86_64__)
#define GLINTHAWK_CRC __attribute__((target("sse4.2")))
GLINTHAWK_CRC std::uint32_t add_fast(std::uint32_t sum, std::uint64_t word) {
    return std::uint32_t(_mm_crc32_u64(sum, word));
}
bool has_fast() { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__ARM_FEATURE_CRC32)
#define GLINTHAWK_CRC
std::uint32_t add_fast(std::uint32_t sum, std::uint64_t word) { return __crc32cd(sum, word); }
bool has_fast() { return true; }
#else
#define GLINTHAWK_CRC
std::uint32_t add_fast(std::uint32_t sum, std::uint64_t word) { return add_plain(sum, word); }
bool has_fast() { return false; }
#endif

GLINTHAWK_CRC std::uint32_t checksum_fast(const std::byte* memory, std::size_t bytes) {
    const std::size_t quarter = bytes / kLanes4;
    std::uint32_t a = ~0u, b = ~0u, c = ~0u, d = ~0u;
    for (const std::byte* end = memory + quarter; memory < end; memory += kWord) {
        a = add_fast(a, word_at(memory));
        b = add_fast(b, word_at(memory + quarter));
        c = add_fast(c, word_at(memory + 2 * quarter));
        d = add_fast(d, word_at(memory + 3 * quarter));
    }
    const std::uint32_t both = add_fast(~0u, a | std::uint64_t(b) << 32);
    return ~add_fast(both, c | std::uint64_t(d) << 32);
}

}  // namespace

std::uint32_t checksum_plain(const std::byte* memory, std::size_t bytes) {
    const std::size_t quarter = bytes / kLanes4;
    std::uint64_t sums[kLanes4];
    for (std::size_t lane = 0; lane < kLanes4; ++lane) {
        std::uint32_t sum = ~0u;
        for (std::size_t at = 0; at < quarter; at += kWord)
            sum = add_plain(sum, word_at(memory + lane * quarter + at));
        sums[lane] = sum;
    }
    const std::uint32_t both = add_plain(~0u, sums[0] | sums[1] << 32);
    return ~add_plain(both, sums[2] | sums[3] << 32);
}

std::uint32_t checksum(const std::byte* memory, std::size_t bytes) {
    static const bool is_fast = has_fast();
    return is_fast ? checksum_fast(memory, bytes) : checksum_plain(memory, bytes);
}

}  // namespace glinthawk
