// Threads of its own, which wait for the next call: for a short while by looking, then asleep. Or those
// of an OpenMP runtime that this process has already: two sets of waiting threads would take the cores
// from one another.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace glinthawk {

// Entry points of an OpenMP runtime (GOMP_parallel, omp_get_thread_num); null: none.
struct Team {
    void (*parallel)(void (*work)(void*), void* data, unsigned num_threads, unsigned flags) = nullptr;
    int (*thread)() = nullptr;
};

class Pool {
public:
    // The caller of run is one of num_threads. With as many threads as allowed CPUs each keeps to one.
    explicit Pool(int num_threads, Team team = {});
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int size() const { return num_threads_; }

    // work(thread) on every thread; returns when all are done. One caller at a time. work must not throw.
    // A team may send fewer threads, so work is not to be dealt out beforehand.
    void run(const std::function<void(int)>& work);

private:
    void serve(int thread);
    void run_on_team(const std::function<void(int)>& work);

    const Team team_;
    const int num_threads_;
    std::vector<int> cpus_;
    bool pinned_;
    const std::function<void(int)>* work_ = nullptr;
    std::atomic<unsigned> call_{0};    // counts runs; workers wait for it to change
    std::atomic<int> running_{0};      // workers not done yet
    std::atomic<bool> closing_{false};
    std::vector<std::thread> workers_;
};

}  // namespace glinthawk
