#include "engine.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "../work.hpp"

namespace glinthawk {

namespace {

constexpr int kWriteAtOnce = 16;  // pages

std::vector<std::size_t> unit_bytes_of(const Store& store, int num_layers) {
    std::vector<std::size_t> sizes;
    for (int layer = 0; layer < num_layers; ++layer)
        sizes.push_back(store.layer(layer).unit_bytes());
    return sizes;
}

std::size_t share(std::size_t bytes, std::size_t one, std::size_t least, std::size_t most) {
    return std::clamp(bytes / one, least, most);
}

}  // namespace

MemoryShares::MemoryShares(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                           std::size_t bytes) {
    constexpr std::size_t kFewestLoads = 2, kMostLoads = 16, kFewestStaged = 4, kMostStaged = 64;
    constexpr std::size_t kFewestFrames = 4, kMostFrames = 1 << 30;
    std::size_t unit = 0;
    page_bytes = 0;
    for (const LayerShape& shape : layers) {
        const std::size_t one = Layer(shape, kv, 1, page_tokens).unit_bytes();
        unit = std::max(unit, (one + kDriveBlock - 1) / kDriveBlock * kDriveBlock);
        page_bytes += one;
    }
    load_bytes = unit * (kChunkTokens / page_tokens);
    num_loads = int(share(bytes / 8, load_bytes, kFewestLoads, kMostLoads));
    num_staged = int(share(bytes / 16, unit, kFewestStaged, kMostStaged));
    const std::size_t buffers = load_bytes * num_loads + unit * num_staged;
    if (bytes < buffers + kFewestFrames * page_bytes)
        throw std::invalid_argument(
            "beside the drives this model needs memory (--kv) of at least " +
            std::to_string((buffers + kFewestFrames * page_bytes) / 1024 + 1) + " KiB");
    num_frames = int(std::min((bytes - buffers) / page_bytes, kMostFrames));
}

// Transfers whose end is waited for.
class StorageEngine::Group {
public:
    void add() {
        const std::lock_guard lock(mutex_);
        ++left_;
    }
    void end(const std::string& failure) {
        const std::lock_guard lock(mutex_);
        if (!failure.empty()) failure_ = failure;
        if (--left_ == 0) done_.notify_all();
    }
    std::string wait() {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return left_ == 0; });
        return failure_;
    }

private:
    std::mutex mutex_;
    std::condition_variable done_;
    int left_ = 0;
    std::string failure_;
};

StorageEngine::StorageEngine(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                             const IsaChoice& choice, int threads, std::size_t memory_bytes,
                             const std::vector<DriveFile>& files, bool only_threads)
    : choice_(choice),
      shares_(layers, page_tokens, kv, memory_bytes),
      frames_(layers, shares_.num_frames, page_tokens, kv),
      num_layers_(int(layers.size())),
      pool_(threads),
      loads_(shares_.load_bytes, shares_.num_loads),
      staged_(shares_.load_bytes / (kChunkTokens / page_tokens), shares_.num_staged),
      residence_(0, 0),
      in_frames_(frames_, residence_),
      vault_(files, unit_bytes_of(frames_, num_layers_), only_threads) {
    residence_ = Residence(num_pages(), shares_.num_frames);
    writer_ = std::thread([this] { write_back(); });
}

StorageEngine::~StorageEngine() {
    {
        const std::lock_guard state(state_);
        is_closing_ = true;
    }
    work_.notify_all();
    writer_.join();
}

StorageStats StorageEngine::stats() {
    const std::lock_guard state(state_);
    return {vault_.bytes_read(), vault_.bytes_written(), shares_.num_frames,
            residence_.available()};
}

std::string StorageEngine::failure() {
    const std::lock_guard state(state_);
    return failure_;
}

void StorageEngine::validate() {
    const std::lock_guard lock(mutex_);
    const std::lock_guard state(state_);
    residence_.validate();
}

void StorageEngine::fail(const std::string& words) {
    const std::lock_guard state(state_);
    failure_ = words;
    throw std::runtime_error(words);
}

void StorageEngine::check(int layer, const Plan& plan) {
    if (layer < 0 || layer >= num_layers_) throw std::invalid_argument("no such layer");
    if (plan.page_limit() != num_pages() || plan.page_tokens() != frames_.page_tokens())
        throw std::invalid_argument("this plan was made for other pages");
    const std::lock_guard state(state_);
    if (!failure_.empty()) throw std::runtime_error(failure_);
}

std::vector<StorageEngine::Touched> StorageEngine::touched(const Plan& plan) const {
    const int size = plan.page_tokens();
    std::vector<Touched> found;
    for (const Span& span : plan.spans()) {
        for (int at = span.start / size; at * size < span.end(); ++at) {
            const int first = std::max(span.start, at * size);
            const int end = std::min(span.end(), (at + 1) * size);
            found.push_back({span.pages[at], at ? span.pages[at - 1] : -1, first - at * size,
                             end - first, std::size_t(span.row + first - span.start),
                             end - first == size});
        }
    }
    return found;
}

void StorageEngine::begin(const Plan& plan) {
    check(0, plan);
    const std::lock_guard lock(mutex_);
    std::unique_lock state(state_);
    const std::vector<Touched> all = touched(plan);
    std::vector<Before> before;
    try {
        for (const Touched& one : all) before.push_back(claim(one, state));
    } catch (...) {
        for (std::size_t i = before.size(); i-- > 0;) disclaim(all[i].page, before[i]);
        throw;
    }
    // Only now is anything lost that was there.
    for (std::size_t i = 0; i < all.size(); ++i) prepare_to_write(all[i], before[i], state);
}

// A frame for a page, unless it has one or goes to a drive at once.
StorageEngine::Before StorageEngine::claim(const Touched& one,
                                           std::unique_lock<std::mutex>& state) {
    await_idle(one.page, state);
    Page& page = residence_[one.page];
    const Before before{page.slot, page.frame >= 0, page.is_full, page.is_dirty};
    if (before.has_frame) {
        residence_.became_dirty(one.page);
    } else if (!one.is_covered || residence_.available() > half()) {
        await_frame(one.page, state);
        page.slot = -1;
        page.is_dirty = true;
        page.is_full = false;
    }
    ++page.steps;
    page.before = one.before;
    return before;
}

void StorageEngine::disclaim(int number, const Before& before) {
    Page& page = residence_[number];
    --page.steps;
    if (!before.has_frame && page.frame >= 0) residence_.move_out(number);
    page.slot = before.slot;
    page.is_full = before.is_full;
    if (before.has_frame && before.slot >= 0 && !before.is_dirty)
        residence_.became_clean(number);
}

void StorageEngine::prepare_to_write(const Touched& one, const Before& before,
                                     std::unique_lock<std::mutex>& state) {
    Page& page = residence_[one.page];
    if (before.slot >= 0) {
        if (!before.has_frame && !one.is_covered) bring_in(before.slot, page.frame, state);
        vault_.drives().give_back(before.slot);
    }
    if (page.frame >= 0) return;
    page.slot = vault_.drives().take(page.before < 0 ? -1 : residence_[page.before].slot);
    page.layers = 0;
}

void StorageEngine::await_idle(int page, std::unique_lock<std::mutex>& state) {
    changed_.wait(state, [&] { return residence_[page].writes == 0; });
}

void StorageEngine::await_frame(int page, std::unique_lock<std::mutex>& state) {
    ++wanting_;
    while (!residence_.settle_in(page)) {
        const bool is_hopeless = num_writing_ == 0 && residence_.victims(1, true).empty();
        if (is_hopeless || !failure_.empty()) {
            --wanting_;
            if (!failure_.empty()) throw std::runtime_error(failure_);
            throw std::invalid_argument("memory holds not the last page of every sequence");
        }
        work_.notify_one();
        changed_.wait(state);
    }
    --wanting_;
    if (residence_.available() < half()) work_.notify_one();
}

// From a slot to a frame, all layers.
void StorageEngine::bring_in(int slot, int frame, std::unique_lock<std::mutex>& state) {
    state.unlock();
    Group group;
    for (int layer = 0; layer < num_layers_; ++layer) {
        std::byte* buffer = loads_.take();
        group.add();
        vault_.read({layer, {slot}}, buffer, [&, layer, buffer](const std::string& failure) {
            if (failure.empty()) frames_.fill(frames_.layer(layer), frame, buffer);
            loads_.give_back(buffer);
            group.end(failure);
        });
    }
    const std::string failure = group.wait();
    if (!failure.empty()) fail(failure);
    state.lock();
}

void StorageEngine::end(const Plan& plan) {
    const std::lock_guard lock(mutex_);
    std::unique_lock state(state_);
    for (const Touched& one : touched(plan)) {
        Page& page = residence_[one.page];
        --page.steps;
        page.is_full = one.offset + one.tokens == plan.page_tokens();
        residence_.touch(one.page);
        if (page.frame >= 0 || page.layers == num_layers_) continue;
        await_idle(one.page, state);  // some layers never came, so it holds nothing
        vault_.drives().give_back(std::exchange(page.slot, -1));
    }
    if (residence_.available() < half()) work_.notify_one();
}

void StorageEngine::release(const int* pages, std::size_t num_pages) {
    const std::lock_guard lock(mutex_);
    std::unique_lock state(state_);
    for (std::size_t i = 0; i < num_pages; ++i) {
        if (pages[i] < 0 || pages[i] >= this->num_pages())
            throw std::invalid_argument("there is no such page");
        await_idle(pages[i], state);
        Page& page = residence_[pages[i]];
        if (page.frame >= 0) residence_.move_out(pages[i]);
        if (page.slot >= 0) vault_.drives().give_back(page.slot);
        page = Page();
    }
    changed_.notify_all();
}

void StorageEngine::copy_page(int from, int to) {
    if (std::min(from, to) < 0 || std::max(from, to) >= num_pages())
        throw std::invalid_argument("there is no such page");
    const std::lock_guard lock(mutex_);
    std::unique_lock state(state_);
    await_idle(from, state);
    const Page source = residence_[from], target = residence_[to];
    const int frame = target.frame;
    if (!target.steps) throw std::invalid_argument("a page is copied to one that a step writes to");
    if (frame < 0) return;  // all of it will be written, and goes to a drive at once
    if (source.frame < 0 && source.slot >= 0) bring_in(source.slot, frame, state);
    if (source.frame >= 0) frames_.copy_page(source.frame, frame);
}

void StorageEngine::append(int layer, const Plan& plan, const NewRows& rows) {
    check(layer, plan);
    const std::lock_guard lock(mutex_);
    frames_.append(layer, plan, in_frames_, rows, pool_);
    append_to_drives(layer, plan, rows);
}

// Whole pages that have no frame.
void StorageEngine::append_to_drives(int layer, const Plan& plan, const NewRows& rows) {
    std::vector<Touched> direct;
    {
        const std::lock_guard state(state_);
        for (const Touched& one : touched(plan)) {
            const Page& page = residence_[one.page];
            if (page.frame >= 0) continue;
            if (page.slot < 0 || !page.steps || !one.is_covered || page.layers != layer)
                throw std::invalid_argument("a step begins, and then has its layers in order");
            direct.push_back(one);
        }
        for (const Touched& one : direct) {  // only now: what throws has changed nothing
            ++residence_[one.page].writes;
            ++residence_[one.page].layers;
        }
    }
    const Layer& shape = frames_.layer(layer);
    std::atomic<std::size_t> next{0};
    pool_.run([&](int) {
        for (std::size_t at; (at = next.fetch_add(1)) < direct.size();) {
            const Touched& one = direct[at];
            std::byte* buffer = staged_.take();
            frames_.write(shape, {buffer, shape.page_bytes}, one.offset, rows, one.row, one.tokens);
            write_unit(one.page, layer, residence_[one.page].slot, buffer);
        }
    });
}

void StorageEngine::write_unit(int page, int layer, int slot, std::byte* buffer) {
    vault_.write(layer, slot, buffer, [this, page, buffer](const std::string& failure) {
        wrote(page, buffer, failure);
    });
}

void StorageEngine::wrote(int number, std::byte* buffer, const std::string& failure) {
    {
        const std::lock_guard state(state_);
        if (!failure.empty()) failure_ = failure;
        Page& page = residence_[number];
        if (--page.writes == 0) {
            if (page.frame >= 0) {
                --num_writing_;
                if (failure_.empty()) residence_.became_clean(number);
            }
            changed_.notify_all();
        }
    }
    staged_.give_back(buffer);
}

std::vector<int> StorageEngine::choose_victims() {
    const bool is_short =
        residence_.available() + num_writing_ < half() || wanting_ > 0;
    if (!is_short || !failure_.empty()) return {};
    return residence_.victims(kWriteAtOnce, wanting_ > 0 && num_writing_ == 0);
}

// A thread of its own.
void StorageEngine::write_back() {
    struct Out {
        int page, frame, slot;
    };
    std::unique_lock state(state_);
    for (;;) {
        std::vector<int> victims;
        work_.wait(state, [&] { return is_closing_ || !(victims = choose_victims()).empty(); });
        if (is_closing_) return;
        std::vector<Out> out;
        for (const int number : victims) {
            Page& page = residence_[number];
            page.slot = vault_.drives().take(page.before < 0 ? -1 : residence_[page.before].slot);
            page.writes = num_layers_;
            ++num_writing_;
            out.push_back({number, page.frame, page.slot});
        }
        state.unlock();
        for (int layer = 0; layer < num_layers_; ++layer) {
            for (const auto [page, frame, slot] : out) {
                std::byte* buffer = staged_.take();
                frames_.read(frames_.layer(layer), frame, buffer);
                write_unit(page, layer, slot, buffer);
            }
        }
        state.lock();
    }
}

void StorageEngine::attend(int layer, const Plan& plan, const void* queries, DType dtype,
                           void* outputs, float* log_sum_exp) {
    check(layer, plan);
    const std::lock_guard lock(mutex_);
    prepare(layer, plan);
    const LayerShape& shape = frames_.layer(layer).shape;
    const Request request{layer, plan, queries, dtype, outputs, log_sum_exp};
    Attention attention(frames_, in_frames_, *choice_.kernels, request,
                        plan.schedule(shape.group(), shape.window));
    const auto passes = cut_whole_passes(attention);
    const Workers workers = hire(attention, passes, pool_.size());
    for (const Pass& pass : passes) stream(attention, layer, pass, workers);
}

void StorageEngine::prepare(int layer, const Plan& plan) {
    std::unique_lock state(state_);
    for (const Span& span : plan.spans()) {
        for (int at = 0; at * plan.page_tokens() < span.end(); ++at) {
            prepare_page(span.pages[at], state);
            if (layer == 0) residence_.touch(span.pages[at]);
        }
    }
}

// What is on its way to a drive can be read when it is there.
void StorageEngine::prepare_page(int number, std::unique_lock<std::mutex>& state) {
    if (number < 0 || number >= num_pages()) throw std::invalid_argument("there is no such page");
    const Page& page = residence_[number];
    if (page.frame < 0 && page.slot < 0)
        throw std::invalid_argument("a page is read that nobody has written");
    if (page.frame < 0) await_idle(number, state);
}

void StorageEngine::stream(const Attention& attention, int layer, const Pass& pass,
                           const Workers& workers) {
    Stream stream(attention, layer, pass, residence_, in_frames_, vault_, loads_);
    if (!stream.needs_drives()) return run(pass, workers, pool_);
    stream.begin();
    pool_.run([&](int thread) { workers[thread]->run(stream); });
    const std::string failure = stream.end();
    if (!failure.empty()) fail(failure);
}

void StorageEngine::read(int layer, const int* pages, std::size_t num_pages, std::byte* to) {
    const Layer& shape = frames_.layer(layer);
    const std::size_t unit = shape.unit_bytes();
    const std::lock_guard lock(mutex_);
    {
        std::unique_lock state(state_);
        if (!failure_.empty()) throw std::runtime_error(failure_);
        for (std::size_t i = 0; i < num_pages; ++i) prepare_page(pages[i], state);
    }
    Group group;
    std::vector<int> slots;
    std::size_t first = 0;  // place of the first of them
    for (std::size_t i = 0; i <= num_pages; ++i) {
        const int frame = i < num_pages ? residence_[pages[i]].frame : 0;
        const bool is_full = slots.size() == std::size_t(kChunkTokens / frames_.page_tokens());
        if (!slots.empty() && (frame >= 0 || is_full))
            read_run(layer, std::exchange(slots, {}), to + first * unit, group);
        if (i == num_pages) break;
        if (slots.empty()) first = i;
        if (frame >= 0) {
            frames_.read(shape, frame, to + i * unit);
        } else {
            slots.push_back(residence_[pages[i]].slot);
        }
    }
    const std::string failure = group.wait();
    if (!failure.empty()) fail(failure);
}

// Pages that are wanted one after the other at `to`.
void StorageEngine::read_run(int layer, std::vector<int> slots, std::byte* to, Group& group) {
    const std::size_t unit = frames_.layer(layer).unit_bytes();
    const std::size_t padded = vault_.drives().padded(layer), count = slots.size();
    std::byte* buffer = loads_.take();
    group.add();
    vault_.read({layer, std::move(slots)}, buffer,
                [=, this, &group](const std::string& failure) {
                    for (std::size_t i = 0; i < count; ++i)
                        std::memcpy(to + i * unit, buffer + i * padded, unit);
                    loads_.give_back(buffer);
                    group.end(failure);
                });
}

}  // namespace glinthawk
