#include "caller.hpp"

#include <cstring>
#include <numeric>
#include <stdexcept>

#include "check.hpp"

namespace glinthawk {

Caller::Caller(StorageEngine& far, int first_page, int num_pages, unsigned seed)
    : far_(far),
      near_(shapes(), far.num_pages(), kPageTokens, DType::float32,
            choose_kernels("auto", DType::float32), 2),
      random_(seed),
      free_(num_pages) {
    std::iota(free_.begin(), free_.end(), first_page);
}

void Caller::act() {
    const int kind = int(random_() % 10);
    if (sequences_.empty() || (kind < 2 && sequences_.size() < 2)) return prompt();
    if (kind < 7) return decode();
    if (kind == 7) return give_up_a_prompt();
    if (kind == 8) return copy();
    release();
}

void Caller::prompt() {
    Sequence sequence;
    const int length = 1 + int(random_() % 500);
    if (!take(sequence.pages, length)) return;
    step(sequence, 0, length, false, 3);
    sequence.length = length;
    sequences_.push_back(std::move(sequence));
}

void Caller::decode() {
    Sequence& sequence = sequences_[random_() % sequences_.size()];
    const int more = 1 + int(random_() % 40);
    if (!take(sequence.pages, sequence.length + more)) return release();
    step(sequence, sequence.length, more, true, 3);
    sequence.length += more;
}

void Caller::give_up_a_prompt() {
    Sequence sequence;
    if (!take(sequence.pages, 300)) return;
    step(sequence, 0, 300, false, int(random_() % 3));
    give_back(sequence);
}

// A page that a step writes to begins as another's.
void Caller::copy() {
    const Sequence& source = sequences_[random_() % sequences_.size()];
    if (source.length < kPageTokens || sequences_.size() >= 2) return;
    Sequence sequence;
    if (!take(sequence.pages, kPageTokens + 5)) return;
    Rows rows;
    rows.add(5, kPageTokens, sequence.pages);  // its first tokens are the other's
    const Plan plan = rows.plan(far_.num_pages());
    far_.begin(plan);
    far_.copy_page(source.pages[0], sequence.pages[0]);
    near_.copy_page(source.pages[0], sequence.pages[0]);
    append_and_attend(plan, true, 3);
    far_.end(plan);
    sequence.length = kPageTokens + 5;
    sequences_.push_back(std::move(sequence));
}

void Caller::release() {
    if (sequences_.empty()) return;
    const std::size_t at = random_() % sequences_.size();
    give_back(sequences_[at]);
    sequences_.erase(sequences_.begin() + std::ptrdiff_t(at));
}

std::string Caller::fail_to_prompt(int length) {
    try {
        for (int i = 0; i < 8; ++i) {
            Sequence sequence;
            REQUIRE(take(sequence.pages, length));
            step(sequence, 0, length, false, 3);
            sequence.length = length;
            Rows rows;
            rows.add(length - 1, 1, sequence.pages);
            attend(0, rows.plan(far_.num_pages()));
            give_back(sequence);
        }
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return {};
}

bool Caller::take(std::vector<int>& pages, int length) {
    const std::size_t want = std::size_t(length + kPageTokens - 1) / kPageTokens;
    if (want > pages.size() + free_.size()) return false;
    while (pages.size() < want) {
        pages.push_back(free_.back());
        free_.pop_back();
    }
    return true;
}

void Caller::give_back(Sequence& sequence) {
    far_.release(sequence.pages.data(), sequence.pages.size());
    free_.insert(free_.end(), sequence.pages.begin(), sequence.pages.end());
}

void Caller::step(const Sequence& sequence, int start, int length, bool attends, int num_layers) {
    Rows rows;
    rows.add(start, length, sequence.pages);
    const Plan plan = rows.plan(far_.num_pages());
    far_.begin(plan);
    append_and_attend(plan, attends, num_layers);
    far_.end(plan);
}

void Caller::append_and_attend(const Plan& plan, bool attends, int num_layers) {
    const std::size_t size = plan.num_rows() * kKvHeads * kDim;
    for (int layer = 0; layer < num_layers; ++layer) {
        const std::vector<float> keys = numbers(size), values = numbers(size);
        const NewRows kv{reinterpret_cast<const std::byte*>(keys.data()),
                         reinterpret_cast<const std::byte*>(values.data()), DType::float32};
        near_.append(layer, plan, kv);
        far_.append(layer, plan, kv);
        if (attends) attend(layer, plan);
    }
}

void Caller::attend(int layer, const Plan& plan) {
    const std::size_t count = plan.num_rows() * kHeads;
    const std::vector<float> queries = numbers(count * kDim);
    std::vector<float> outputs[2], sums[2];
    for (int i = 0; i < 2; ++i) {
        outputs[i].resize(count * kDim);
        sums[i].resize(count);
    }
    near_.attend(
        {layer, plan, queries.data(), DType::float32, outputs[0].data(), sums[0].data()});
    far_.attend(
        {layer, plan, queries.data(), DType::float32, outputs[1].data(), sums[1].data()});
    REQUIRE(std::memcmp(outputs[0].data(), outputs[1].data(), count * kDim * 4) == 0);
    REQUIRE(std::memcmp(sums[0].data(), sums[1].data(), count * 4) == 0);
}

std::vector<float> Caller::numbers(std::size_t count) {
    std::vector<float> made(count);
    for (float& one : made) one = float(random_() % 2001) / 1000 - 1;
    return made;
}

}  // namespace glinthawk
