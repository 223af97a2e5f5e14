#include "machine/pool.hpp"

#include "machine/cpus.hpp"

namespace glinthawk {

namespace {

constexpr int kSpins = 20'000;  // about 100 microseconds: the gap between two layers' parcels

void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Returns once value is no longer old.
template <class T>
void await_change(const std::atomic<T>& value, T old) {
    for (int i = 0; i < kSpins; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
    }
    value.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int num_threads, Team team)
    : team_(team),
      num_threads_(num_threads),
      cpus_(team.parallel ? std::vector<int>{} : allowed_cpus()),
      pinned_(!team.parallel && num_threads > 1 && num_threads == int(cpus_.size())) {
    if (team_.parallel) return;
    for (int thread = 1; thread < num_threads_; ++thread)
        workers_.emplace_back([this, thread] { serve(thread); });
}

Pool::~Pool() {
    closing_ = true;
    call_.fetch_add(1, std::memory_order_release);
    call_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void Pool::run(const std::function<void(int)>& work) {
    if (num_threads_ == 1) return work(0);
    if (team_.parallel) return run_on_team(work);
    work_ = &work;
    running_.store(num_threads_ - 1, std::memory_order_relaxed);
    call_.fetch_add(1, std::memory_order_release);
    call_.notify_all();
    const std::vector<int> before = pinned_ ? allowed_cpus() : std::vector<int>{};
    if (pinned_) pin_to(cpus_[0]);
    work(0);
    for (int left; (left = running_.load(std::memory_order_acquire)) != 0;)
        await_change(running_, left);
    if (pinned_) pin_to(before);
}

void Pool::run_on_team(const std::function<void(int)>& work) {
    struct Call {
        const std::function<void(int)>& work;
        int (*thread)();
    } call{work, team_.thread};
    const auto enter = [](void* data) {
        const Call& call = *static_cast<const Call*>(data);
        call.work(call.thread());
    };
    team_.parallel(enter, &call, unsigned(num_threads_), 0);
}

void Pool::serve(int thread) {
    if (pinned_) pin_to(cpus_[thread]);
    for (unsigned seen = 0;;) {
        await_change(call_, seen);
        seen = call_.load(std::memory_order_acquire);
        if (closing_) return;
        (*work_)(thread);
        if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_all();
    }
}

}  // namespace glinthawk
