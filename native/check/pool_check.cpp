// Hammers the pool: memory that is not atomic is handed from the caller to all threads and back, in calls
// that come at once, after a while (threads are asleep by then), and never.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>
#include <vector>

#include "machine/pool.hpp"
#include "check.hpp"

using namespace glinthawk;

namespace {

struct alignas(64) Sum {
    long value = 0;
};

// Every thread is called once, sees what the caller has written, and the caller what it wrote.
void call(Pool& pool, long round) {
    std::vector<long> given(64, round);
    std::vector<Sum> sums(pool.size());
    std::atomic<std::size_t> next{0};
    int calls = 0;  // of this thread
    pool.run([&](int thread) {
        if (thread == 0) ++calls;
        for (std::size_t at; (at = next.fetch_add(1)) < given.size();)
            sums[thread].value += given[at];
        ++sums[thread].value;
    });
    long sum = 0;
    for (const Sum& one : sums) {
        REQUIRE(one.value > 0);
        sum += one.value;
    }
    REQUIRE(calls == 1);
    REQUIRE(sum == long(given.size()) * round + pool.size());
}

void calls_at_once(int threads, int count) {
    Pool pool(threads);
    for (int round = 0; round < count; ++round) call(pool, round);
}

void calls_with_pauses(int threads, int count) {
    Pool pool(threads);
    for (int round = 0; round < count; ++round) {
        std::this_thread::sleep_for(std::chrono::microseconds(100 * (round % 30)));
        call(pool, round);
    }
}

void pools_that_live_short(int threads, int count) {
    for (int round = 0; round < count; ++round) {
        Pool pool(threads);
        for (int i = 0; i < round % 3; ++i) call(pool, round);
    }
}

// Engines of one process have a pool each; callers of one pool take turns.
void several_callers(int threads, int count) {
    Pool shared(threads);
    std::mutex turn;
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 3; ++caller)
        callers.emplace_back([&] {
            Pool own(threads);
            for (int round = 0; round < count; ++round) {
                call(own, round);
                const std::lock_guard lock(turn);
                call(shared, round);
            }
        });
    for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main() {
    end_after(300);
    for (const int threads : {1, 2, 3, 8}) {
        calls_at_once(threads, 1000);
        calls_with_pauses(threads, 60);
        pools_that_live_short(threads, 60);
        several_callers(threads, 100);
    }
    std::puts("pool: ok");
}
