#include "quantized/product.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>

namespace glinthawk {

namespace {

// Of packed weights that stay in a core's second-level cache while all rows meet them.
constexpr std::size_t kCachedBytes = 256 << 10;
constexpr int kStripsTogether = 4;
// So many pieces a thread, so that none waits long for the last.
constexpr int kPieces = 4;

int strips_at_once(const PackedShape& shape, int num_threads) {
    const auto cached = std::max<std::size_t>(1, kCachedBytes / shape.strip_bytes());
    const std::size_t fair = shape.num_strips() / (kPieces * num_threads);
    const std::size_t strips = std::clamp<std::size_t>(fair, 1, cached);
    return int((strips + kStripsTogether - 1) / kStripsTogether * kStripsTogether);
}

float widen(const std::byte* row, DType dtype, std::size_t i) {
    float x = 0;
    if (dtype == DType::float32) {
        std::memcpy(&x, row + 4 * i, 4);
    } else {
        std::memcpy(reinterpret_cast<std::byte*>(&x) + 2, row + 2 * i, 2);
    }
    return x;
}

// Times `factor`.
void sum_groups(const QuantizedProduct& product, DType dtype, std::size_t row, float factor,
                float* sums) {
    const PackedShape& shape = product.shape;
    const std::size_t inputs = shape.num_inputs;
    const std::byte* from = product.rows + row * inputs * dtype_bytes(dtype);
    for (std::size_t first = 0; first < inputs; first += shape.group) {
        const std::size_t end = std::min(first + shape.group, inputs);
        float lanes[kInputStep] = {};
        for (std::size_t i = first; i < end; i += kInputStep)
            for (int lane = 0; lane < kInputStep; ++lane)
                lanes[lane] += widen(from, dtype, i + lane);
        float sum = 0;
        for (const float lane : lanes) sum += lane;
        *sums++ = factor * sum;
    }
}

// work(first, end) for pieces of [0, count), on the threads of a team.
void for_pieces(std::size_t count, std::size_t piece, int num_threads, Team team,
                const std::function<void(std::size_t, std::size_t)>& work) {
    std::atomic<std::size_t> next{0};
    const auto serve = [&](int) {
        for (std::size_t first; (first = next.fetch_add(piece)) < count;)
            work(first, std::min(first + piece, count));
    };
    if (num_threads < 2 || !team.parallel || count <= piece) return serve(0);
    Pool(num_threads, team).run(serve);
}

}  // namespace

void multiply(QuantizedProduct product, float offset, const QuantizedKernel& kernel,
              int num_threads, Team team) {
    std::unique_ptr<float[]> sums;
    const float factor = product.shape.offset_bytes ? 1 : offset;
    if (factor != 0) {
        constexpr std::size_t kAtOnce = 16;
        const std::size_t groups = product.shape.num_groups();
        sums.reset(new float[product.num_rows * groups]);
        product.group_sums = sums.get();
        for_pieces(product.num_rows, kAtOnce, num_threads, team, [&](auto first, auto end) {
            for (std::size_t row = first; row < end; ++row)
                sum_groups(product, kernel.dtype, row, factor, &sums[row * groups]);
        });
    }
    const std::size_t strips = product.shape.num_strips();
    const int at_once = strips_at_once(product.shape, num_threads);
    const std::size_t rows = product.num_rows, most = kernel.most_rows;
    const std::size_t blocks = (rows + most - 1) / most;  // as even as can be
    for_pieces(strips, at_once, num_threads, team, [&](auto strip, auto end) {
        for (std::size_t block = 0; block < blocks; ++block) {
            const std::size_t first = rows * block / blocks, after = rows * (block + 1) / blocks;
            kernel.multiply(product, {first, int(after - first), int(strip), int(end)});
        }
    });
}

}  // namespace glinthawk
