#include "attention/worker.hpp"

#include <algorithm>
#include <cstdint>
#include <memory>

namespace glinthawk {

namespace {

constexpr std::size_t kQueryBytes = std::size_t(kGangRows + kMaxTileRows) * kQueryStride;

std::byte* align64(std::byte* p) {
    return p + (64 - reinterpret_cast<std::uintptr_t>(p) % 64) % 64;
}

// Rows of the next tile: as many as the kernels take at once, else the next power of two.
int tile_rows(int left, int most) {
    if (left >= most) return most;
    int rows = 1;
    while (rows < left) rows *= 2;
    return rows;
}

}  // namespace

Worker::Worker(Attention& shared) : shared_(shared) {
    memory_ = std::make_unique_for_overwrite<std::byte[]>(
        kQueryBytes + shared.row_floats * sizeof(float) + 64);
    queries_ = align64(memory_.get());
    spare_row_ = reinterpret_cast<float*>(queries_ + kQueryBytes);
    rows_.reserve(kGangRows);
}

void Worker::run(const Pass& pass, std::atomic<std::size_t>& next, int num_threads) {
    // Small enough to end together, large enough that neighbouring chunks stay on one thread.
    grain_ = std::clamp<std::size_t>(pass.num_items / (std::size_t(num_threads) * 16), 1, 8);
    at_ = end_ = 0;
    packed_.clear();
    for (Job job = take(pass, next); job.unit;) {
        const Job following = take(pass, next);  // known early: its memory can be asked for
        process(job, following);
        job = following;
    }
    shared_.kernels.rest();
}

void Worker::run(Tasks& tasks) {
    packed_.clear();
    for (Task task = tasks.take(); task.unit; task = tasks.take()) {
        process(look_up(*task.unit, *task.item, *task.pages), {});
        tasks.finish(task);
    }
    shared_.kernels.rest();
}

Worker::Job Worker::take(const Pass& pass, std::atomic<std::size_t>& next) {
    if (at_ == end_) {
        at_ = std::min(next.fetch_add(grain_, std::memory_order_relaxed), pass.num_items);
        end_ = std::min(at_ + grain_, pass.num_items);
        if (at_ == end_) return {};
    }
    const std::size_t index = at_++;
    const auto after = std::upper_bound(
        pass.units.begin(), pass.units.end(), index,
        [](std::size_t item, const Unit& unit) { return item < unit.first_item; });
    const Unit& unit = *(after - 1);
    const Component& component = shared_.schedule.components[unit.component];
    return look_up(unit,
                   shared_.schedule.items[component.first_item + index - unit.first_item],
                   shared_.pages);
}

Worker::Job Worker::look_up(const Unit& unit, const Item& item, const Pages& pages) const {
    const Sight sight = shared_.sight(item);
    Job job;
    job.unit = &unit;
    job.item = &item;
    job.first_token = sight.first_token;
    job.end = sight.end;
    const int block = shared_.layer.layout.tokens, page_tokens = shared_.store.page_tokens();
    for (int at = job.first_token; at < job.end; at += block)
        job.blocks[job.num_blocks++] = pages.find(shared_.layer, sight.pages[at / page_tokens])
                                           .block(shared_.layer, unit.head, at % page_tokens);
    return job;
}

void Worker::process(const Job& job, const Job& next) {
    gather_rows(job);
    prepare_rows();
    const int count = int(rows_.size());
    for (int first = 0; first < count;) {
        const int rows = tile_rows(count - first, shared_.kernels.max_rows);
        attend_rows(job, first + rows < count ? job : next, first, rows);
        first += rows;
    }
    finish(job);
}

void Worker::gather_rows(const Job& job) {
    const LayerShape& shape = shared_.layer.shape;
    rows_.clear();
    for (int i = job.item->first_slice; i < job.item->end_slice; ++i) {
        const Slice& slice = shared_.schedule.slices[i];
        if (!slice.sees(job.item->chunk)) continue;
        const std::size_t partial =
            slice.partial + (job.item->chunk - slice.first_chunk) * shared_.rows(slice);
        float* state =
            shared_.partials.get() + job.unit->first_partial + partial * shared_.row_floats;
        for (int token = 0; token < slice.tokens; ++token) {
            const int position = slice.position + token;
            const int begin = slice.first_seen(position, shape.window);
            const std::size_t query = std::size_t(slice.row + token) * shape.num_heads +
                                      std::size_t(job.unit->head) * shape.group();
            for (int head = 0; head < shape.group(); ++head, state += shared_.row_floats)
                rows_.push_back({begin, position + 1, query + head, state});
        }
    }
}

// Packs queries, unless they are the last item's, and clears states.
void Worker::prepare_rows() {
    const DType dtype = shared_.request.dtype;
    const int head_dim = shared_.layer.shape.head_dim, padded = shared_.layer.layout.padded;
    const auto* queries = static_cast<const std::byte*>(shared_.request.queries);
    const std::size_t bytes = std::size_t(head_dim) * dtype_bytes(dtype);
    packed_.resize(rows_.size(), SIZE_MAX);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
        shared_.kernels.clear(rows_[i].state, padded);
        if (packed_[i] == rows_[i].query) continue;
        packed_[i] = rows_[i].query;
        shared_.kernels.pack_query(queries_ + i * kQueryStride,
                                   queries + rows_[i].query * bytes, dtype, head_dim);
    }
    shared_.kernels.clear(spare_row_, padded);
}

// What to ask memory for while a block is worked on, as a distance. Along a run of blocks hardware does
// that better, if lines are taken quickly: then ask for what is on its way already. What follows a run
// is new to the hardware, and many rows a line are too slow for it.
std::ptrdiff_t Worker::ahead(const Job& job, const Job& next, int block, int rows) const {
    constexpr std::ptrdiff_t kNear = 512, kFar = 16 << 10;
    constexpr int kManyRows = 8;
    const std::ptrdiff_t bytes = shared_.layer.layout.bytes();
    const int lead = int((kFar + bytes - 1) / bytes), later = block + lead - job.num_blocks;
    const std::byte* here = job.blocks[block];
    const std::byte* there = here;
    if (later < 0)
        there = job.blocks[block + lead];
    else if (next.unit)
        there = next.blocks[std::min(later, next.num_blocks - 1)];
    return there - here == lead * bytes && rows < kManyRows ? kNear : there - here;
}

void Worker::attend_rows(const Job& job, const Job& next, int first, int count) {
    int begin[kMaxTileRows], end[kMaxTileRows];
    float* states[kMaxTileRows];
    Tile tile{};
    tile.open = 0;
    tile.close = INT32_MAX;
    for (int r = 0; r < count; ++r) {
        const bool spare = first + r >= int(rows_.size());
        const Row& row = rows_[spare ? first : first + r];
        begin[r] = row.begin;
        end[r] = row.end;
        states[r] = spare ? spare_row_ : row.state;
        tile.open = std::max(tile.open, row.begin);
        tile.close = std::min(tile.close, row.end);
    }
    tile.begin = begin;
    tile.end = end;
    tile.rows = states;
    tile.queries = queries_ + first * kQueryStride;
    tile.first_token = job.first_token;
    const int block = shared_.layer.layout.tokens;
    for (int i = 0; i < job.num_blocks; ++i, tile.first_token += block) {
        tile.block = job.blocks[i];
        tile.ahead = ahead(job, next, i, count);
        tile.valid = std::min(block, job.end - tile.first_token);
        tile.strips = (tile.valid + kLanes - 1) / kLanes;
        shared_.kernels.attend(shared_.geometry, tile, count);
    }
}

void Worker::finish(const Job& job) {
    for (int i = job.item->first_slice; i < job.item->end_slice; ++i) {
        const Slice& slice = shared_.schedule.slices[i];
        if (!slice.sees(job.item->chunk)) continue;
        // The last to come finds the partial rows of all others.
        if (shared_.chunks_left(i, job.unit->head).fetch_sub(1, std::memory_order_acq_rel) == 1)
            merge(job, slice);
    }
}

void Worker::merge(const Job& job, const Slice& slice) {
    const LayerShape& shape = shared_.layer.shape;
    const DType dtype = shared_.request.dtype;
    const std::size_t rows = shared_.rows(slice), group = shape.group();
    const std::size_t bytes = std::size_t(shape.value_dim) * dtype_bytes(dtype);
    const float* partials = shared_.partials.get() + job.unit->first_partial +
                            slice.partial * shared_.row_floats;
    for (std::size_t r = 0; r < rows; ++r, partials += shared_.row_floats) {
        const std::size_t head = job.unit->head * group + r % group;
        const std::size_t out = (slice.row + r / group) * shape.num_heads + head;
        shared_.kernels.merge({partials, rows * shared_.row_floats,
                               slice.end_chunk - slice.first_chunk, shape.value_dim,
                               shared_.layer.layout.padded,
                               shape.sinks.empty() ? nullptr : &shape.sinks[head], dtype,
                               static_cast<std::byte*>(shared_.request.outputs) + out * bytes,
                               shared_.request.log_sum_exp + out});
    }
}

Workers hire(Attention& attention, const std::vector<Pass>& passes, int threads) {
    std::size_t partial_floats = 0;
    for (const Pass& pass : passes) partial_floats = std::max(partial_floats, pass.partial_floats);
    attention.partials = std::make_unique_for_overwrite<float[]>(partial_floats);
    Workers workers;
    for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(attention));
    return workers;
}

void run(const Pass& pass, const Workers& workers, Pool& pool) {
    std::atomic<std::size_t> next{0};
    pool.run([&](int thread) { workers[thread]->run(pass, next, pool.size()); });
}

}  // namespace glinthawk
