#include "product.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>

namespace glinthawk {

namespace {

// Of packed weights that stay in a core's second-level cache while all rows meet them.
constexpr std::size_t kCachedBytes = 512 << 10;
// Packing pays for itself above so many rows.
constexpr std::size_t kFewRows = 2 * kPanel;
// So many pieces a thread, so that none waits long for the last.
constexpr int kPieces = 4;

int panels_at_once(const Product& product, int num_panels, int num_threads) {
    const std::size_t panel_bytes = std::size_t(product.num_inputs) * kPanel * 2;
    const int cached = int(std::max<std::size_t>(1, kCachedBytes / panel_bytes));
    return std::clamp(num_panels / (kPieces * num_threads), 1, cached);
}

struct Release {
    void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t(64)); }
};

// Memory that is kept for the next call of this thread.
template <int Which>
std::byte* scratch(std::size_t bytes) {
    static thread_local std::unique_ptr<std::byte[], Release> memory;
    static thread_local std::size_t size = 0;
    if (bytes > size) {
        memory.reset(static_cast<std::byte*>(::operator new[](bytes, std::align_val_t(64))));
        size = bytes;
    }
    return memory.get();
}

// Sixteen rows, fewer at the end, from the one with this number.
void pack_rows(std::byte* to, const Product& product, std::size_t first) {
    const std::size_t stride = std::size_t(product.num_inputs) * 2;
    const std::size_t count = std::min<std::size_t>(16, product.num_rows - first);
    for (std::size_t row = 0; row < count; ++row) {
        const std::byte* from = product.rows + (first + row) * stride;
        for (std::size_t at = 0; at < stride; at += 64)
            std::memcpy(to + first * stride + at * 16 + row * 64, from + at, 64);
    }
}

// work() on as many threads as there are.
template <class Work>
void run(int num_threads, Team team, const Work& work) {
    if (num_threads < 2 || !team.parallel) return work();
    Pool(num_threads, team).run([&](int) { work(); });
}

// All rows meet [begin, end) of the inputs of one panel before its next ones.
void multiply_panel(const Product& product, const ProductKernel& kernel, int panel, int begin,
                    int end, float* sums) {
    for (std::size_t row = 0; row < product.num_rows; row += kPanel, sums += kPanel * kPanel) {
        const int count = int(std::min<std::size_t>(product.num_rows - row, kPanel));
        kernel.multiply(product, {row, count, panel, begin, end, sums});
    }
}

void multiply_panels(const Product& product, const ProductKernel& kernel, int num_threads,
                     Team team) {
    const int num_panels = (product.num_outputs + kPanel - 1) / kPanel;
    const int at_once = panels_at_once(product, num_panels, num_threads);
    const std::size_t num_sums = (product.num_rows + kPanel - 1) / kPanel * kPanel * kPanel;
    std::atomic<int> next{0};
    run(num_threads, team, [&] {
        float* sums = reinterpret_cast<float*>(scratch<1>(at_once * num_sums * sizeof(float)));
        for (int panel; (panel = next.fetch_add(at_once)) < num_panels;) {
            const int last = std::min(panel + at_once, num_panels);
            for (int begin = 0; begin < product.num_inputs; begin += kDepth)
                for (int one = panel; one < last; ++one)
                    multiply_panel(product, kernel, one, begin,
                                   std::min(begin + kDepth, product.num_inputs),
                                   sums + (one - panel) * num_sums);
        }
        kernel.rest();
    });
}

}  // namespace

void multiply(const Product& product, const ProductKernel& kernel, int num_threads, Team team) {
    if (product.num_rows <= kFewRows) return multiply_panels(product, kernel, num_threads, team);
    Product packed = product;
    std::byte* rows = scratch<0>((product.num_rows + 15) / 16 * 16 * product.num_inputs * 2);
    std::atomic<std::size_t> next{0};
    run(num_threads, team, [&] {
        for (std::size_t row; (row = next.fetch_add(16)) < product.num_rows;)
            pack_rows(rows, product, row);
    });
    packed.rows = rows;
    packed.packed_rows = true;
    multiply_panels(packed, kernel, num_threads, team);
}

}  // namespace glinthawk
