#include "dense/rows.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "kernels/isa.hpp"

namespace glinthawk {

namespace {

const Kernels& best_kernels() {
    static const Kernels& kernels = *choose_kernels("auto", DType::float32).kernels;
    return kernels;
}

// work(row) for every row, on the threads of a team where that is worth waking them.
template <class Work>
void for_rows(std::size_t count, std::size_t row_bytes, int threads, Team team, const Work& work) {
    constexpr std::size_t kAtOnce = 16, kSmall = 64 << 10;
    if (threads < 2 || !team.parallel || count * row_bytes < kSmall) {
        for (std::size_t row = 0; row < count; ++row) work(row);
        return;
    }
    std::atomic<std::size_t> next{0};
    Pool(threads, team).run([&](int) {
        for (std::size_t at; (at = next.fetch_add(kAtOnce)) < count;)
            for (std::size_t row = at; row < std::min(at + kAtOnce, count); ++row) work(row);
    });
}

}  // namespace

void rms_norm(const NormRows& rows, int num_threads, Team team) {
    if (rows.size < 16 || rows.size % 16)
        throw std::invalid_argument("a row is a multiple of 16 long");
    const Kernels& kernels = best_kernels();
    const std::size_t bytes = std::size_t(rows.size) * dtype_bytes(rows.dtype);
    for_rows(rows.num_rows, bytes, num_threads, team, [&](std::size_t row) {
        kernels.norm(rows.out + row * bytes, rows.rows + row * bytes, rows.weight, rows.size,
                     rows.epsilon, rows.dtype);
    });
}

void rotate(const RotaryRows& rows, int num_threads, Team team) {
    if (rows.size < 32 || rows.size % 32)
        throw std::invalid_argument("a head is a multiple of 32 long");
    const Kernels& kernels = best_kernels();
    const std::size_t bytes = std::size_t(rows.size) * dtype_bytes(rows.dtype);
    const std::size_t row_bytes = rows.num_heads * bytes;
    for_rows(rows.num_tokens, row_bytes, num_threads, team, [&](std::size_t token) {
        const std::byte* from = rows.heads + token * rows.token_bytes;
        std::byte* to = rows.out + token * row_bytes;
        for (std::size_t head = 0; head < rows.num_heads; ++head, from += bytes, to += bytes)
            kernels.rotate(to, from, rows.cos + token * bytes, rows.sin + token * bytes, rows.size,
                           rows.dtype);
    });
}

}  // namespace glinthawk
