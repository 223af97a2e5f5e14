// A token drawn from a row of logits: top-k, then top-p of what that leaves, then min-p, then the first
// token, in the order of ids, at which the kept weights exceed a random share of their sum.
//
// What is kept is all above one value, and the first few that equal it. Nothing is sorted: a sketch of the
// row, the largest of each group and one other, says about where that value is; the tokens around there
// are collected, and among them it is found exactly. A bad guess costs time alone.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/sample_blocks.hpp"

namespace glinthawk {
namespace {

template <class Logits, class Mask>
class RowSampler {
public:
    explicit RowSampler(const SampleRow& row)
        : row_(row.row), rules_(row.rules), blocks_(row.row, row.mask) {}

    // -1 where the logits have no distribution: NaN, +inf, or nothing but -inf.
    int draw() {
        top_ = blocks_.survey();
        if (!std::isfinite(top_)) return -1;
        limit_ = least_by_min_p();
        const Softmax softmax(top_, rules_.temperature);
        if (rules_.top_k > 0 && rules_.top_k < row_.size)
            cut_by_rank(softmax);
        else if (rules_.top_p < 1)
            cut_by_mass(softmax);
        else
            keep_from_limit(softmax);
        return walk(softmax);
    }

private:
    static constexpr int kAll = std::numeric_limits<int>::max();

    // The smallest logit whose weight is min_p or more.
    float least_by_min_p() const {
        if (rules_.min_p <= 0) return -kInfinity;
        const double exact = double(top_) + rules_.temperature * std::log(rules_.min_p);
        if (exact < -std::numeric_limits<float>::max()) return -kInfinity;
        const float near = float(exact);
        return std::min(double(near) < exact ? next_above(near) : near, top_);
    }

    void keep_from_limit(const Softmax& softmax) {
        blocks_.weigh(softmax, limit_);
        cut_ = limit_, num_ties_ = kAll;
    }

    Weighted open() const { return {row_.scratch.values, row_.scratch.weights, num_open_}; }

    void cut_by_rank(const Softmax& softmax) {
        const int rank = int(rules_.top_k);
        const float low = blocks_.reached_by(rank, top_);
        collect(softmax, low, kInfinity);
        std::fill_n(row_.scratch.block_weights, blocks_.num_blocks(), 0.0);
        const Cut cut = cut_at_rank(row_.scratch.values, num_open_, rank, low, top_);
        cut_ = cut.value, num_ties_ = cut.num_ties;
        if (rules_.top_p < 1) cut_ranked_by_mass(softmax);
        if (limit_ > cut_) cut_ = limit_, num_ties_ = kAll;
        settle(false);
    }

    void cut_ranked_by_mass(const Softmax& softmax) {
        const float last = cut_;
        const int num_last = num_ties_;
        const double ranked = open().mass(next_above(last)) + num_last * weight(softmax, last);
        find_cut(softmax, last, next_above(top_), rules_.top_p * ranked);
        if (cut_ == last) num_ties_ = std::min(num_ties_, num_last);
    }

    // Finds the edge in [low, high), where what is kept above `low` comes to `target`.
    void find_cut(const Softmax& softmax, float low, float high, double target) {
        const Weighted among = open();
        cut_ = highest_limit(low, high, target, [&](float limit) { return among.mass(limit); });
        const double ties = (target - among.mass(next_above(cut_))) / weight(softmax, cut_);
        num_ties_ = ties < kAll ? std::max(1, int(std::ceil(ties))) : kAll;
    }

    static double weight(const Softmax& softmax, float x) {
        alignas(64) float lanes[16];
        store(lanes, softmax(set1(x)));
        return lanes[0];
    }

    void cut_by_mass(const Softmax& softmax) {
        const Weighted sketch = weigh_sketch(softmax);
        const double share = rules_.top_p * sketch.mass(-kInfinity);
        const float guess = std::max(limit_, edge(sketch, share));
        const auto mass = blocks_.weigh(softmax, guess);
        const double missing = rules_.top_p * mass.all - mass.kept;
        if (missing > 0)
            cut_below(softmax, sketch, guess, missing);
        else
            cut_above(softmax, sketch, guess, -missing);
    }

    // What is below the guess and still has to be kept comes to `missing`.
    void cut_below(const Softmax& softmax, const Weighted& sketch, float guess, double missing) {
        float low = std::max(limit_, edge(sketch, sketch.mass(guess) + reach(missing)));
        if (collect(softmax, low, guess) < missing && low > limit_)
            collect(softmax, low = limit_, guess);
        if (open().mass(-kInfinity) < missing)  // min-p leaves less than top-p
            cut_ = limit_, num_ties_ = kAll;
        else
            find_cut(softmax, low, guess, missing);
        settle(false);
    }

    // What is above the guess comes to too much.
    void cut_above(const Softmax& softmax, const Weighted& sketch, float guess, double excess) {
        const double left = sketch.mass(guess) - reach(excess);
        float high = left > 0 ? std::max(edge(sketch, left), next_above(guess)) : kInfinity;
        double among = collect(softmax, guess, high);
        if (among <= excess) among = collect(softmax, guess, high = kInfinity);
        find_cut(softmax, guess, std::min(high, next_above(top_)), among - excess);
        settle(true);
    }

    double collect(const Softmax& softmax, float low, float high) {
        num_open_ = blocks_.collect(softmax, low, high);
        return open().mass(-kInfinity);
    }

    // How far to look, as a mass of the sketch.
    double reach(double missing) const { return 1.4 * missing + 0.001 * sketched_; }

    // The largest of each group counts for itself, another one for all others.
    Weighted weigh_sketch(const Softmax& softmax) {
        float *values = row_.scratch.sketch, *weights = row_.scratch.sketch_weights;
        const int groups = blocks_.num_groups();
        for (int i = 0; i < groups; i += 16) {
            const Vec largest = load(values + i), other = load(values + groups + i);
            const Vec its = mul(softmax(other), set1(float(kSampleFold - 1)));
            store(weights + i, softmax(largest));
            store(weights + groups + i, sub(its, where_at_least(other, largest, its)));
        }
        const Weighted sketch{values, weights, 2 * groups};
        sketched_ = sketch.mass(-kInfinity);
        return sketch;
    }

    // About where the sketch's mass above comes to `target`; nothing matters below 2^-40 of the top.
    float edge(const Weighted& sketch, double target) const {
        const auto range = float(40 * 0.6931471805599453 * rules_.temperature);
        if (target >= sketched_) return -kInfinity;
        return about_highest_limit(top_ - range, next_above(top_), target,
                                   [&](float limit) { return sketch.mass(limit); });
    }

    // Brings the blocks' weights in line with what became of the open tokens, which are in there or not.
    void settle(bool counted) {
        const SampleScratch& its = row_.scratch;
        int ties = num_ties_;
        for (int i = 0; i < num_open_; ++i) {
            const double weight = its.weights[i], change = counted ? -weight : weight;
            its.block_weights[its.ids[i] / kSampleBlock] +=
                keeps(its.values[i], ties) != counted ? change : 0;
        }
    }

    bool keeps(float x, int& ties) const { return (x > cut_) | (x == cut_ && ties-- > 0); }

    int walk(const Softmax& softmax) const {
        const double* weights = row_.scratch.block_weights;
        double total = 0, height = 0;
        for (int block = 0; block < blocks_.num_blocks(); ++block) total += weights[block];
        if (!(total > 0)) return -1;
        const double target = rules_.uniform * total;
        int last = -1;
        for (int block = 0; block < blocks_.num_blocks(); height += weights[block++]) {
            if (height + weights[block] <= target) continue;
            last = scan(softmax, block, height, target);
            if (last >= 0) return last;
        }
        for (int block = blocks_.num_blocks(); last < 0 && block--;)
            last = scan(softmax, block, 0, kInfinity);
        return last;
    }

    // The first kept token of a block at which `height` exceeds `target`, or its last one; -1: none.
    int scan(const Softmax& softmax, int block, double height, double target) const {
        alignas(64) float values[kSampleBlock], weights[kSampleBlock];
        for (int v = 0; v < kSampleFold; ++v) {
            store(values + 16 * v, blocks_.at(block, v));
            store(weights + 16 * v, softmax(blocks_.at(block, v)));
        }
        int ties = ties_left(block), last = -1;
        for (int i = 0; i < kSampleBlock; ++i) {
            if (!keeps(values[i], ties) || weights[i] == 0) continue;
            last = block * kSampleBlock + i;
            if ((height += weights[i]) > target) break;
        }
        return last;
    }

    int ties_left(int block) const {
        if (num_ties_ == kAll) return kAll;
        int before = 0;
        for (int i = 0; i < num_open_ && row_.scratch.ids[i] < block * kSampleBlock; ++i)
            before += row_.scratch.values[i] == cut_;
        return num_ties_ - before;
    }

    const LogitRow& row_;
    const SampleRules& rules_;
    const RowBlocks<Logits, Mask> blocks_;
    float top_ = 0, limit_ = 0, cut_ = 0;
    int num_ties_ = 0, num_open_ = 0;
    double sketched_ = 0;
};

template <class Logits, class Mask>
int sample_logits(const SampleRow& row) {
    const LogitEdits& edits = row.edits;
    if (!edits.count) return RowSampler<Logits, Mask>(row).draw();
    const RowBlocks<Logits, Mask> blocks(row.row, row.mask);
    float* copy = row.row.scratch.copy;
    for (int block = 0; block < blocks.num_blocks(); ++block)
        for (int v = 0; v < kSampleFold; ++v)
            if (!blocks.has_none(block, v))
                store(copy + kSampleBlock * block + 16 * v, blocks.at(block, v));
    for (std::size_t i = 0; i < edits.count; ++i) copy[edits.tokens[i]] = edits.values[i];
    const auto* bytes = reinterpret_cast<const std::byte*>(copy);
    return RowSampler<Float32Logits, Mask>(
               {{bytes, DType::float32, row.row.size, row.row.scratch}, row.rules, {}, row.mask})
        .draw();
}

template <class Mask>
int sample_masked(const SampleRow& row) {
    switch (row.row.dtype) {
        case DType::bfloat16: return sample_logits<Bfloat16Logits, Mask>(row);
        case DType::float16: return sample_logits<Float16Logits, Mask>(row);
        default: return sample_logits<Float32Logits, Mask>(row);
    }
}

inline int sample_row(const SampleRow& row) {
    return row.mask.words ? sample_masked<Masked>(row) : sample_masked<Unmasked>(row);
}

}  // namespace
}  // namespace glinthawk
