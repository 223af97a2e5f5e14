#include "dense/product.hpp"

#include <algorithm>
#include <atomic>

namespace glinthawk {

namespace {

// Of packed weights that stay in a core's second-level cache while all rows meet them.
constexpr std::size_t kCachedBytes = 512 << 10;
// So many pieces a thread, so that none waits long for the last.
constexpr int kPieces = 4;

int panels_at_once(const Product& product, int num_panels, int num_threads) {
    const std::size_t panel_bytes = std::size_t(product.num_inputs) * kPanel * 2;
    const int cached = int(std::max<std::size_t>(1, kCachedBytes / panel_bytes));
    return std::clamp(num_panels / (kPieces * num_threads), 1, cached);
}

}  // namespace

void multiply(const Product& product, const ProductKernel& kernel, int num_threads, Team team) {
    const int num_panels = (product.num_outputs + kPanel - 1) / kPanel;
    const int at_once = panels_at_once(product, num_panels, num_threads);
    std::atomic<int> next{0};
    const auto work = [&](int) {
        for (int panel; (panel = next.fetch_add(at_once)) < num_panels;) {
            const int end = std::min(panel + at_once, num_panels);
            for (std::size_t row = 0; row < product.num_rows; row += kPanel) {
                const auto left = product.num_rows - row;
                kernel.multiply(product, {row, int(std::min<std::size_t>(left, kPanel)), panel, end});
            }
        }
        kernel.rest();
    };
    if (num_threads < 2 || !team.parallel) return work(0);
    Pool(num_threads, team).run(work);
}

}  // namespace glinthawk
