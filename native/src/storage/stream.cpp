#include "storage/stream.hpp"

#include <algorithm>

namespace glinthawk {

Place Load::find(const Layer& layer, int page) const {
    for (std::size_t i = 0; i < numbers.size(); ++i)
        if (numbers[i] == page) return {buffer + i * unit_, layer.page_bytes};
    return frames_.find(layer, page);
}

Stream::Stream(const Attention& attention, int layer, const Pass& pass, const Residence& residence,
               const Pages& frames, Vault& vault, Buffers& buffers)
    : attention_(attention), layer_(layer), vault_(vault), buffers_(buffers) {
    const Schedule& schedule = attention.schedule;
    for (std::size_t u = 0; u < pass.units.size(); u += attention.heads()) {
        const Component& component = schedule.components[pass.units[u].component];
        for (int i = 0; i < component.num_items; ++i)
            add(&pass.units[u], schedule.items[component.first_item + i], residence, frames);
    }
    for (Load& load : loads_) {
        load.left = load.items.size() * attention.heads();
        order_.push_back(&load);
    }
    std::stable_sort(order_.begin(), order_.end(), [](const Load* a, const Load* b) {
        return a->wanted.slots.front() < b->wanted.slots.front();
    });
}

void Stream::add(const Unit* units, const Item& item, const Residence& residence,
                 const Pages& frames) {
    const Sight sight = attention_.sight(item);
    const int page_tokens = attention_.store.page_tokens();
    std::vector<int> missing;
    for (int at = sight.first_token / page_tokens; at * page_tokens < sight.end; ++at)
        if (residence[sight.pages[at]].frame < 0) missing.push_back(sight.pages[at]);
    if (missing.empty()) {
        resident_.push_back({units, &item});
        return;
    }
    // Items of one chunk follow each other, and are fed from one read.
    if (loads_.empty() || loads_.back().units != units || loads_.back().numbers != missing) {
        Load& load = loads_.emplace_back(frames, vault_.drives().padded(layer_));
        load.units = units;
        load.wanted.layer = layer_;
        for (int page : missing) load.wanted.slots.push_back(residence[page].slot);
        load.numbers = std::move(missing);
    }
    loads_.back().items.push_back(&item);
}

void Stream::begin() {
    const std::size_t count = std::min<std::size_t>(buffers_.count(), loads_.size());
    for (std::size_t i = 0; i < count; ++i) begin_next(buffers_.take());
}

void Stream::begin_next(std::byte* buffer) {
    std::unique_lock lock(mutex_);
    if (next_load_ == order_.size() || !failure_.empty()) {
        lock.unlock();
        buffers_.give_back(buffer);
        return;
    }
    Load& load = *order_[next_load_++];
    load.buffer = buffer;
    ++num_reading_;
    lock.unlock();
    vault_.read(load.wanted, buffer,
                [this, &load](const std::string& failure) { arrived(load, failure); });
}

void Stream::arrived(Load& load, const std::string& failure) {
    const std::lock_guard lock(mutex_);
    --num_reading_;
    if (failure.empty()) {
        ready_.push_back(&load);
        ++num_ready_;
    } else {
        failure_ = failure;
    }
    come_.notify_all();
}

Task Stream::resident() {
    const std::size_t heads = attention_.heads(), at = next_resident_.fetch_add(1);
    if (at >= resident_.size() * heads) return {};
    const Resident& one = resident_[at / heads];
    return {one.units + at % heads, one.item, &attention_.pages, nullptr};
}

// With the mutex held.
Task Stream::task(Load& load) {
    const std::size_t heads = attention_.heads(), at = load.taken++;
    if (load.taken == load.items.size() * heads) {
        ready_.pop_front();
        --num_ready_;
    }
    return {load.units + at % heads, load.items[at / heads], &load, &load};
}

Task Stream::take() {
    for (;;) {
        if (num_ready_ == 0) {
            const Task task = resident();
            if (task.unit) return task;
        }
        std::unique_lock lock(mutex_);
        if (!failure_.empty()) return {};
        if (!ready_.empty()) return task(*ready_.front());
        if (num_done_ == loads_.size()) return {};
        if (next_resident_ >= resident_.size() * attention_.heads()) come_.wait(lock);
    }
}

void Stream::finish(const Task& task) {
    if (!task.owner) return;
    Load& load = *static_cast<Load*>(task.owner);
    if (load.left.fetch_sub(1) > 1) return;
    begin_next(load.buffer);
    const std::lock_guard lock(mutex_);
    load.buffer = nullptr;
    if (++num_done_ == loads_.size()) come_.notify_all();
}

std::string Stream::end() {
    std::unique_lock lock(mutex_);
    come_.wait(lock, [this] { return num_reading_ == 0; });
    if (!failure_.empty())
        for (Load& load : loads_)
            if (load.buffer) buffers_.give_back(load.buffer);
    return failure_;
}

}  // namespace glinthawk
