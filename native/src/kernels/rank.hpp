// Log-probabilities of a row: of one token, and its rank, and of the likeliest. Include a vec_*.hpp first.
#pragma once

#include <cmath>

#include "kernels/sample_blocks.hpp"

namespace glinthawk {
namespace {

template <class Logits>
class RowRanking {
public:
    explicit RowRanking(const RankRow& row) : to_(row), row_(row.row), blocks_(row.row) {}

    // log p = x - log(sum of exp). False where the logits have no distribution.
    bool write() {
        const float top = blocks_.survey();
        if (!std::isfinite(top)) return false;
        const Softmax softmax(top, 1);
        const double log_sum = double(top) + std::log(blocks_.weigh(softmax, kInfinity).all);
        const float own = logit(to_.token);
        *to_.logprob = float(double(own) - log_sum);
        *to_.rank = 1 + count_before(own);
        if (to_.count > 0) write_top(softmax, top, log_sum);
        return true;
    }

private:
    float logit(int id) const {
        alignas(64) float lanes[16];
        store(lanes, blocks_.at(id / kSampleBlock, id % kSampleBlock / 16));
        return lanes[id % 16];
    }

    // Tokens that are likelier than the asked one, or equal and of a lower id. What fills up the last
    // block is neither.
    std::int64_t count_before(float own) const {
        const Vec least = set1(own);
        const int asked = to_.token / 16;
        std::int64_t count = 0;
        for (int block = 0, vector = 0; block < blocks_.num_blocks(); ++block) {
            for (int v = 0; v < kSampleFold; ++v, ++vector) {
                const Vec x = blocks_.at(block, v);
                const unsigned larger = ~at_least(least, x) & 0xffff;
                const unsigned lower = vector < asked    ? 0xffff
                                       : vector == asked ? (1u << to_.token % 16) - 1
                                                         : 0;
                count += __builtin_popcount(larger | (at_least(x, least) & lower));
            }
        }
        return count;
    }

    void write_top(const Softmax& softmax, float top, double log_sum) {
        const float low = blocks_.reached_by(to_.count, top);
        const int size = blocks_.collect(softmax, low, kInfinity);
        Cut cut = cut_at_rank(row_.scratch.values, size, to_.count, low, top);
        for (int i = 0, count = 0; i < size; ++i) {
            const float x = row_.scratch.values[i];
            if (x > cut.value || (x == cut.value && cut.num_ties-- > 0))
                insert(count++, row_.scratch.ids[i], x);
        }
        for (int i = 0; i < to_.count; ++i)
            to_.top_logprobs[i] = float(double(to_.top_logprobs[i]) - log_sum);
    }

    // Behind all of the first `count` that are no smaller: equals stay in the order of ids.
    void insert(int count, int id, float x) {
        for (; count && to_.top_logprobs[count - 1] < x; --count) {
            to_.top_logprobs[count] = to_.top_logprobs[count - 1];
            to_.top_ids[count] = to_.top_ids[count - 1];
        }
        to_.top_logprobs[count] = x;
        to_.top_ids[count] = id;
    }

    const RankRow& to_;
    const LogitRow& row_;
    const RowBlocks<Logits, Unmasked> blocks_;
};

inline bool rank_row(const RankRow& row) {
    switch (row.row.dtype) {
        case DType::bfloat16: return RowRanking<Bfloat16Logits>(row).write();
        case DType::float16: return RowRanking<Float16Logits>(row).write();
        default: return RowRanking<Float32Logits>(row).write();
    }
}

}  // namespace
}  // namespace glinthawk
