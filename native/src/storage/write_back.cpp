#include "storage/write_back.hpp"

namespace glinthawk {

namespace {
constexpr int kAtOnce = 16;  // pages
}

WriteBack::WriteBack(const Store& frames, int num_layers, SharedResidence& residence,
                     Drives& drives, PageWriter& writer)
    : frames_(frames),
      num_layers_(num_layers),
      residence_(residence),
      drives_(drives),
      writer_(writer),
      thread_([this] { run(); }) {}

WriteBack::~WriteBack() {
    {
        const auto lock = residence_.lock();
        residence_.close();
    }
    thread_.join();
}

void WriteBack::run() {
    auto lock = residence_.lock();
    for (;;) {
        const std::vector<int> victims = residence_.await_victims(kAtOnce, lock);
        if (victims.empty()) return;
        std::vector<Leaving> leaving;
        for (const int page : victims) leaving.push_back(send_off(page));
        lock.unlock();
        copy(leaving);
        lock.lock();
    }
}

WriteBack::Leaving WriteBack::send_off(int page) {
    const int slot = drives_.take(residence_.pages.slot_before(page));
    residence_.leave(page, slot, num_layers_);
    return {page, residence_.pages[page].frame, slot};
}

// Layer by layer, so that neighbours are written together.
void WriteBack::copy(const std::vector<Leaving>& pages) {
    for (int layer = 0; layer < num_layers_; ++layer) {
        for (const auto& [page, frame, slot] : pages) {
            writer_.write(page, layer, slot, [&, at = frame](std::byte* buffer) {
                frames_.read(frames_.layer(layer), at, buffer);
            });
        }
    }
}

}  // namespace glinthawk
