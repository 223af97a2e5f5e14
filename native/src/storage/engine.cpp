#include "storage/engine.hpp"

#include <algorithm>
#include <atomic>
#include <stdexcept>

namespace glinthawk {

namespace {

std::vector<std::size_t> unit_bytes_of(const Store& store, int num_layers) {
    std::vector<std::size_t> sizes;
    for (int layer = 0; layer < num_layers; ++layer)
        sizes.push_back(store.layer(layer).unit_bytes());
    return sizes;
}

}  // namespace

StorageEngine::StorageEngine(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                             const IsaChoice& choice, int threads, std::size_t memory_bytes,
                             const std::vector<DriveFile>& files, bool only_threads)
    : choice_(choice),
      shares_(layers, page_tokens, kv, memory_bytes),
      frames_(layers, shares_.num_frames, page_tokens, kv),
      num_layers_(int(layers.size())),
      pool_(threads),
      drives_(files, unit_bytes_of(frames_, num_layers_)),
      residence_(drives_.num_slots(), shares_.num_frames),
      in_frames_(frames_, residence_.pages),
      reader_(shares_.load_bytes, shares_.num_loads, frames_, num_layers_, residence_.pages,
              vault_),
      writer_(shares_.stage_bytes, shares_.num_staged, residence_, vault_),
      steps_(num_layers_, residence_, drives_, reader_),
      vault_(drives_, num_layers_, only_threads),
      write_back_(frames_, num_layers_, residence_, drives_, writer_) {}

StorageStats StorageEngine::stats() {
    const auto lock = residence_.lock();
    return {vault_.bytes_read(), vault_.bytes_written(), shares_.num_frames,
            residence_.pages.available()};
}

std::string StorageEngine::failure() {
    const auto lock = residence_.lock();
    return residence_.failure();
}

void StorageEngine::validate() {
    const std::lock_guard call(mutex_);
    const auto lock = residence_.lock();
    residence_.pages.validate();
}

void StorageEngine::check(int layer, const Plan& plan) {
    if (layer < 0 || layer >= num_layers_) throw std::invalid_argument("no such layer");
    if (plan.page_limit() != num_pages() || plan.page_tokens() != frames_.page_tokens())
        throw std::invalid_argument("this plan was made for other pages");
    const auto lock = residence_.lock();
    residence_.require_no_failure();
}

void StorageEngine::check_page(int page) const {
    if (page < 0 || page >= num_pages()) throw std::invalid_argument("there is no such page");
}

void StorageEngine::begin(const Plan& plan) {
    check(0, plan);
    const std::lock_guard call(mutex_);
    steps_.begin(plan);
}

void StorageEngine::end(const Plan& plan) {
    const std::lock_guard call(mutex_);
    steps_.end(plan);
}

void StorageEngine::release(const int* pages, std::size_t num_pages) {
    const std::lock_guard call(mutex_);
    for (std::size_t i = 0; i < num_pages; ++i) {
        check_page(pages[i]);
        steps_.release(pages[i]);
    }
}

void StorageEngine::copy_page(int from, int to) {
    check_page(from);
    check_page(to);
    const std::lock_guard call(mutex_);
    auto lock = residence_.lock();
    residence_.await_idle(from, lock);
    const Page source = residence_.pages[from], target = residence_.pages[to];
    const int frame = target.frame;
    if (!target.steps) throw std::invalid_argument("a page is copied to one that a step writes to");
    if (frame < 0) return;  // all of it will be written, and goes to a drive at once
    if (source.frame < 0 && source.slot >= 0) steps_.bring_in(source.slot, frame, lock);
    if (source.frame >= 0) frames_.copy_page(source.frame, frame);
}

void StorageEngine::append(int layer, const Plan& plan, const NewRows& rows) {
    check(layer, plan);
    const std::lock_guard call(mutex_);
    frames_.append(layer, plan, in_frames_, rows, pool_);
    append_to_drives(layer, plan, rows);
}

// Whole pages that have no frame.
void StorageEngine::append_to_drives(int layer, const Plan& plan, const NewRows& rows) {
    const std::vector<TouchedPage> direct = steps_.take_direct(plan, layer);
    const Layer& shape = frames_.layer(layer);
    std::atomic<std::size_t> next{0};
    pool_.run([&](int) {
        for (std::size_t at; (at = next.fetch_add(1)) < direct.size();) {
            const TouchedPage& one = direct[at];
            const int slot = residence_.pages[one.page].slot;
            writer_.write(one.page, layer, slot, [&](std::byte* buffer) {
                frames_.write(shape, {buffer, shape.page_bytes}, one.offset, rows, one.row,
                              one.tokens);
            });
        }
    });
}

void StorageEngine::attend(const Request& request) {
    check(request.layer, request.plan);
    const std::lock_guard call(mutex_);
    prepare(request.layer, request.plan);
    Attention attention(frames_, in_frames_, *choice_.kernels, request);
    const auto passes = cut_whole_passes(attention);
    const Workers workers = hire(attention, passes, pool_.size());
    for (const Pass& pass : passes) attend_pass(attention, request.layer, pass, workers);
}

void StorageEngine::prepare(int layer, const Plan& plan) {
    auto lock = residence_.lock();
    for (const Span& span : plan.spans()) {
        for (int at = 0; at * plan.page_tokens() < span.end(); ++at) {
            prepare_page(span.pages[at], lock);
            if (layer == 0) residence_.pages.touch(span.pages[at]);
        }
    }
}

// What is on its way to a drive can be read when it is there.
void StorageEngine::prepare_page(int number, SharedResidence::Lock& lock) {
    check_page(number);
    const Page& page = residence_.pages[number];
    if (page.frame < 0 && page.slot < 0)
        throw std::invalid_argument("a page is read that nobody has written");
    if (page.frame < 0) residence_.await_idle(number, lock);
}

void StorageEngine::attend_pass(const Attention& attention, int layer, const Pass& pass,
                                const Workers& workers) {
    Stream stream(attention, layer, pass, residence_.pages, in_frames_, vault_, reader_.buffers());
    if (!stream.needs_drives()) return run(pass, workers, pool_);
    stream.begin();
    pool_.run([&](int thread) { workers[thread]->run(stream); });
    const std::string failure = stream.end();
    const auto lock = residence_.lock();
    residence_.fail_with(failure);
}

void StorageEngine::read(int layer, const int* pages, std::size_t num_pages, std::byte* to) {
    const std::lock_guard call(mutex_);
    auto lock = residence_.lock();
    residence_.require_no_failure();
    for (std::size_t i = 0; i < num_pages; ++i) prepare_page(pages[i], lock);
    lock.unlock();
    const std::string failure = reader_.read(layer, pages, num_pages, to);
    lock.lock();
    residence_.fail_with(failure);
}

}  // namespace glinthawk
