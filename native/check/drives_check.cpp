// Hammers pages on drives: the same bits as in memory while little of it is there, calls from several
// threads, and drives whose writes fail.
#include <fcntl.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../src/storage/engine.hpp"
#include "check.hpp"

using namespace glinthawk;

namespace {

constexpr int kPageTokens = 32, kHeads = 4, kKvHeads = 2, kDim = 32, kThreads = 3;
constexpr std::size_t kFileBytes = 2 << 20, kMemory = 1 << 20;

std::vector<LayerShape> shapes() {
    const LayerShape plain{kHeads, kKvHeads, kDim, kDim, 0.2f, 0, 0, nullptr};
    LayerShape windowed = plain;
    windowed.window = 70;
    return {plain, windowed, plain};
}

// A file without a name.
class Scratch {
public:
    Scratch() {
        char name[] = "glinthawk-check-XXXXXX";
        file_ = mkstemp(name);
        REQUIRE(file_ >= 0);
        unlink(name);
        REQUIRE(ftruncate(file_, kFileBytes) == 0);
    }
    explicit Scratch(const char* name) : file_(open(name, O_RDWR)) { REQUIRE(file_ >= 0); }
    ~Scratch() { close(file_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    int file() const { return file_; }

private:
    int file_;
};

// A step of a few sequences, as a plan.
struct Rows {
    std::vector<int> starts, lengths, pages, offsets{0};

    void add(int start, int length, const std::vector<int>& held) {
        starts.push_back(start);
        lengths.push_back(length);
        const int count = (start + length + kPageTokens - 1) / kPageTokens;
        pages.insert(pages.end(), held.begin(), held.begin() + count);
        offsets.push_back(int(pages.size()));
    }
    int count() const { return std::accumulate(lengths.begin(), lengths.end(), 0); }
    Plan plan(int num_pages) const {
        return Plan({starts.data(), lengths.data(), starts.size(), pages.data(), pages.size(),
                     offsets.data(), nullptr},
                    std::size_t(count()), num_pages, kPageTokens);
    }
};

// Sequences of one caller, with pages of its own, in memory and on drives.
class Caller {
public:
    Caller(StorageEngine& far, int first_page, int num_pages, unsigned seed)
        : far_(far),
          near_(shapes(), far.num_pages(), kPageTokens, DType::float32),
          kernels_(choose_kernels("auto", DType::float32)),
          pool_(2),
          random_(seed),
          free_(num_pages) {
        std::iota(free_.begin(), free_.end(), first_page);
    }

    void act() {
        const int kind = int(random_() % 10);
        if (sequences_.empty() || (kind < 2 && sequences_.size() < 2)) return prompt();
        if (kind < 7) return decode();
        if (kind == 7) return give_up_a_prompt();
        if (kind == 8) return copy();
        release();
    }

    void prompt() {
        Sequence sequence;
        const int length = 1 + int(random_() % 500);
        if (!take(sequence.pages, length)) return;
        step(sequence, 0, length, false, 3);
        sequence.length = length;
        sequences_.push_back(std::move(sequence));
    }

    void decode() {
        Sequence& sequence = sequences_[random_() % sequences_.size()];
        const int more = 1 + int(random_() % 40);
        if (!take(sequence.pages, sequence.length + more)) return release();
        step(sequence, sequence.length, more, true, 3);
        sequence.length += more;
    }

    void give_up_a_prompt() {
        Sequence sequence;
        if (!take(sequence.pages, 300)) return;
        step(sequence, 0, 300, false, int(random_() % 3));
        give_back(sequence);
    }

    // A page that a step writes to begins as another's.
    void copy() {
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
        layers(plan, rows, true, 3);
        far_.end(plan);
        sequence.length = kPageTokens + 5;
        sequences_.push_back(std::move(sequence));
    }

    void release() {
        if (sequences_.empty()) return;
        const std::size_t at = random_() % sequences_.size();
        give_back(sequences_[at]);
        sequences_.erase(sequences_.begin() + std::ptrdiff_t(at));
    }

    std::string fail_to_prompt(int length) {
        try {
            for (int i = 0; i < 8; ++i) {
                Sequence sequence;
                REQUIRE(take(sequence.pages, length));
                step(sequence, 0, length, false, 3);
                sequence.length = length;
                Rows rows;
                rows.add(length - 1, 1, sequence.pages);
                attend(0, rows.plan(far_.num_pages()), rows);
                give_back(sequence);
            }
        } catch (const std::runtime_error& error) {
            return error.what();
        }
        return {};
    }

private:
    struct Sequence {
        std::vector<int> pages;
        int length = 0;
    };

    bool take(std::vector<int>& pages, int length) {
        const std::size_t want = std::size_t(length + kPageTokens - 1) / kPageTokens;
        if (want > pages.size() + free_.size()) return false;
        while (pages.size() < want) {
            pages.push_back(free_.back());
            free_.pop_back();
        }
        return true;
    }

    void give_back(Sequence& sequence) {
        far_.release(sequence.pages.data(), sequence.pages.size());
        free_.insert(free_.end(), sequence.pages.begin(), sequence.pages.end());
    }

    void step(const Sequence& sequence, int start, int length, bool attends, int num_layers) {
        Rows rows;
        rows.add(start, length, sequence.pages);
        const Plan plan = rows.plan(far_.num_pages());
        far_.begin(plan);
        layers(plan, rows, attends, num_layers);
        far_.end(plan);
    }

    void layers(const Plan& plan, const Rows& rows, bool attends, int num_layers) {
        const std::size_t size = std::size_t(rows.count()) * kKvHeads * kDim;
        for (int layer = 0; layer < num_layers; ++layer) {
            const std::vector<float> keys = numbers(size), values = numbers(size);
            const NewRows kv{reinterpret_cast<const std::byte*>(keys.data()),
                             reinterpret_cast<const std::byte*>(values.data()), DType::float32};
            near_.append(layer, plan, near_, kv, pool_);
            far_.append(layer, plan, kv);
            if (attends) attend(layer, plan, rows);
        }
    }

    void attend(int layer, const Plan& plan, const Rows& rows) {
        const std::size_t count = std::size_t(rows.count()) * kHeads;
        const std::vector<float> queries = numbers(count * kDim);
        std::vector<float> outputs[2], sums[2];
        for (int i = 0; i < 2; ++i) {
            outputs[i].resize(count * kDim);
            sums[i].resize(count);
        }
        glinthawk::attend(near_, near_, *kernels_.kernels,
                          {layer, plan, queries.data(), DType::float32, outputs[0].data(),
                           sums[0].data()},
                          pool_);
        far_.attend(layer, plan, queries.data(), DType::float32, outputs[1].data(),
                    sums[1].data());
        REQUIRE(std::memcmp(outputs[0].data(), outputs[1].data(), count * kDim * 4) == 0);
        REQUIRE(std::memcmp(sums[0].data(), sums[1].data(), count * 4) == 0);
    }

    std::vector<float> numbers(std::size_t count) {
        std::vector<float> made(count);
        for (float& one : made) one = float(random_() % 2001) / 1000 - 1;
        return made;
    }

    StorageEngine& far_;
    Store near_;
    IsaChoice kernels_;
    Pool pool_;
    std::mt19937 random_;
    std::vector<int> free_;
    std::vector<Sequence> sequences_;
};

StorageEngine make_engine(const std::vector<DriveFile>& files, bool only_threads) {
    return StorageEngine(shapes(), kPageTokens, DType::float32,
                         choose_kernels("auto", DType::float32), kThreads, kMemory, files,
                         only_threads);
}

void same_bits(bool only_threads, int num_callers, int count) {
    const Scratch one, two;
    StorageEngine engine = make_engine(
        {{one.file(), kFileBytes, "one"}, {two.file(), kFileBytes, "two"}}, only_threads);
    const int share = engine.num_pages() / num_callers;
    std::atomic<bool> is_over{false};
    std::thread looker([&] {
        while (!is_over) {
            engine.validate();
            REQUIRE(engine.stats().num_available <= engine.stats().num_frames);
            std::this_thread::yield();
        }
    });
    std::vector<std::thread> callers;
    for (int number = 0; number < num_callers; ++number)
        callers.emplace_back([&, number] {
            Caller caller(engine, number * share, share, unsigned(number) + 1);
            for (int i = 0; i < count; ++i) caller.act();
        });
    for (std::thread& caller : callers) caller.join();
    is_over = true;
    looker.join();
    REQUIRE(engine.stats().bytes_written > 0);
    REQUIRE(engine.stats().bytes_read > 0);
}

// Every call says so from then on, none waits for ever, and the engine ends.
void failing_writes(bool only_threads, int file, const char* name) {
    StorageEngine engine = make_engine({{file, kFileBytes, name}}, only_threads);
    Caller caller(engine, 0, engine.num_pages(), 7);
    const std::string failure = caller.fail_to_prompt(40 * kPageTokens);
    REQUIRE(failure.find(name) != std::string::npos);
    REQUIRE(caller.fail_to_prompt(1) == failure);
    std::vector<int> pages(std::size_t(engine.num_pages()));
    std::iota(pages.begin(), pages.end(), 0);
    engine.release(pages.data(), pages.size());
    engine.validate();
    REQUIRE(engine.stats().num_available == engine.stats().num_frames);
}

void failing_drives(bool only_threads) {
    const Scratch full("/dev/full");
    failing_writes(only_threads, full.file(), "a full drive");
    failing_writes(only_threads, 1 << 20, "no file");
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit small{64 << 10, before.rlim_max};
    const Scratch limited;
    setrlimit(RLIMIT_FSIZE, &small);
    failing_writes(only_threads, limited.file(), "a limited drive");
    setrlimit(RLIMIT_FSIZE, &before);
}

}  // namespace

int main() {
    end_after(300);
    for (const bool only_threads : {true, false}) {
#if defined(__SANITIZE_THREAD__)
        if (!only_threads) break;  // it does not see how io_uring hands memory over
#endif
        same_bits(only_threads, 1, 150);
        same_bits(only_threads, 2, 100);
        failing_drives(only_threads);
    }
    std::puts("drives: ok");
}
