#include "sampling/rows.hpp"

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
          floats_(new float[blocks_ * 64 + 2 * open_ + kSampleBlock + blocks_ * kSampleBlock]),
          sums_(new double[blocks_]),
          ids_(new std::int32_t[open_]) {}

    SampleScratch scratch() const {
        float* sketch = floats_.get();
        float* values = sketch + 64 * blocks_;
        float* tail = values + 2 * open_;
        return {sketch,         sketch + 32 * blocks_, sums_.get(),
                values,         values + open_,        ids_.get(),
                reinterpret_cast<std::byte*>(tail), tail + kSampleBlock};
    }

private:
    std::size_t blocks_, open_;
    std::unique_ptr<float[]> floats_;
    std::unique_ptr<double[]> sums_;
    std::unique_ptr<std::int32_t[]> ids_;
};

// work(row, the thread's scratch) for every row.
template <class Work>
void for_each_row(const LogitRows& logits, int num_threads, Team team, const Work& work) {
    constexpr std::size_t kSmall = 64 << 10;  // logits for which nobody is woken
    if (!team.parallel || logits.num_rows * std::size_t(logits.size) < kSmall) num_threads = 1;
    num_threads = int(std::clamp<std::size_t>(logits.num_rows, 1, num_threads));
    std::vector<Workspace> workspaces;
    for (int thread = 0; thread < num_threads; ++thread) workspaces.emplace_back(logits.size);
    std::atomic<std::size_t> next{0};
    const auto serve = [&](int thread) {
        for (std::size_t row; (row = next.fetch_add(1)) < logits.num_rows;)
            work(row, LogitRow{logits.rows[row], logits.dtype, logits.size,
                               workspaces[thread].scratch()});
    };
    if (num_threads == 1) return serve(0);
    Pool(num_threads, team).run(serve);
}

}  // namespace

void sample_rows(const LogitRows& logits, const double* rules, const EditedRows& edits,
                 const MaskedRows& masks, std::int64_t* tokens, const Kernels& kernels, int num_threads, Team team) {
    for_each_row(logits, num_threads, team, [&](std::size_t i, const LogitRow& row) {
        const double* its = rules + 5 * i;
        const SampleRules rule{its[0], std::int64_t(its[1]), its[2], its[3], its[4]};
        tokens[i] = kernels.sample({row, rule, edits.of(i), masks.of(i)});
    });
}

void rank_rows(const LogitRows& logits, const RankedRows& to, const Kernels& kernels,
               int num_threads, Team team) {
    for_each_row(logits, num_threads, team, [&](std::size_t i, const LogitRow& row) {
        const std::size_t first = i * std::size_t(to.count);
        if (!kernels.rank({row, int(to.tokens[i]), to.count, to.logprobs + i, to.ranks + i,
                           to.top_ids + first, to.top_logprobs + first}))
            to.tokens[i] = -1;
    });
}

}  // namespace glinthawk
