#include "rows.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

namespace glinthawk {

namespace {

// What a thread works in. Pages that no row needs are never touched.
class Workspace {
public:
    explicit Workspace(int size)
        : blocks_((std::size_t(size) + kSampleBlock - 1) / kSampleBlock),
          open_(blocks_ * kSampleBlock + 32),
          floats_(new float[blocks_ * 64 + 2 * open_ + kSampleBlock]),
          sums_(new double[blocks_]),
          ids_(new std::int32_t[open_]) {}

    SampleScratch scratch() const {
        float* sketch = floats_.get();
        float* values = sketch + 64 * blocks_;
        float* tail = values + 2 * open_;
        return {sketch,         sketch + 32 * blocks_, sums_.get(),
                values,         values + open_,        ids_.get(),
                reinterpret_cast<std::byte*>(tail)};
    }

private:
    std::size_t blocks_, open_;
    std::unique_ptr<float[]> floats_;
    std::unique_ptr<double[]> sums_;
    std::unique_ptr<std::int32_t[]> ids_;
};

SampleRules rules_of(const double* rules) {
    return {rules[0], std::int64_t(rules[1]), rules[2], rules[3], rules[4]};
}

}  // namespace

void sample_rows(const SampleBatch& batch, const Kernels& kernels, int num_threads, Team team) {
    if (!team.parallel) num_threads = 1;
    num_threads = int(std::clamp<std::size_t>(batch.num_rows, 1, num_threads));
    std::vector<Workspace> workspaces;
    for (int thread = 0; thread < num_threads; ++thread) workspaces.emplace_back(batch.size);
    std::atomic<std::size_t> next{0};
    const auto work = [&](int thread) {
        for (std::size_t row; (row = next.fetch_add(1)) < batch.num_rows;)
            batch.tokens[row] =
                kernels.sample({batch.rows[row], batch.dtype, batch.size,
                                rules_of(batch.rules + 5 * row), workspaces[thread].scratch()});
    };
    if (num_threads == 1) return work(0);
    Pool(num_threads, team).run(work);
}

}  // namespace glinthawk
