// The threads of a call: one worker for each.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "attention/passes.hpp"
#include "attention/tasks.hpp"

namespace glinthawk {

class Worker {
public:
    explicit Worker(Attention& shared);
    // Takes items of the pass until there are none; `next` counts those taken.
    void run(const Pass& pass, std::atomic<std::size_t>& next, int num_threads);
    void run(Tasks& tasks);

private:
    static constexpr int kChunkBlocks = kChunkTokens / kLanes;

    // A query row of the item at hand.
    struct Row {
        int begin, end;     // positions it sees
        std::size_t query;  // index among all (T * H)
        float* state;
    };

    // An item under one head whose blocks have been looked up, and not yet touched.
    struct Job {
        const Unit* unit = nullptr;  // null: no work
        const Item* item = nullptr;
        int first_token = 0, end = 0;
        int num_blocks = 0;
        const std::byte* blocks[kChunkBlocks];
    };

    Job take(const Pass& pass, std::atomic<std::size_t>& next);
    Job look_up(const Unit& unit, const Item& item, const Pages& pages) const;
    void process(const Job& job, const Job& next);
    void gather_rows(const Job& job);
    void prepare_rows();
    void attend_rows(const Job& job, const Job& next, int first, int count);
    std::ptrdiff_t ahead(const Job& job, const Job& next, int block, int rows) const;
    void finish(const Job& job);
    void merge(const Job& job, const Slice& slice);

    Attention& shared_;
    std::size_t at_ = 0, end_ = 0, grain_ = 1;  // items taken and not yet begun
    std::vector<Row> rows_;
    std::vector<std::size_t> packed_;  // which queries are packed
    std::unique_ptr<std::byte[]> memory_;
    std::byte* queries_;  // packed rows, kQueryStride apart
    float* spare_row_;    // state of rows that only fill a tile
};

using Workers = std::vector<std::unique_ptr<Worker>>;

// One worker for each thread, and memory for the partial rows of any of `passes`.
Workers hire(Attention& attention, const std::vector<Pass>& passes, int threads);
void run(const Pass& pass, const Workers& workers, Pool& pool);

}  // namespace glinthawk
