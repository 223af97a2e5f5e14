// Hammers pages on drives: the same bits as in memory while little of it is there, calls from several
// threads, and drives whose writes fail.
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "caller.hpp"
#include "scratch.hpp"
#include "storage/engine.hpp"

using namespace glinthawk;

namespace {

constexpr int kThreads = 3;
constexpr std::size_t kMemory = 1 << 20;

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
