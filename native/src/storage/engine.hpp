// Pages in memory and on drives behind the calls of one in memory: attention near storage.
//
// A step begins: the pages that it writes to get frames, or, if it fills them and memory is short, go to
// a drive as they come. It ends: they may go out. In the background, full pages are copied to drives, the
// longest idle first, so that half of all frames can be given away at once: that is room for the last page
// of as many sequences, which has to wait for tokens to come.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "../attention.hpp"
#include "buffers.hpp"
#include "residence.hpp"
#include "stream.hpp"
#include "vault.hpp"

namespace glinthawk {

// How a worker's memory is shared out.
struct MemoryShares {
    std::size_t load_bytes;  // of a buffer for a chunk's pages, and of one for a page of one layer
    std::size_t page_bytes;
    int num_loads, num_staged, num_frames;

    // Throws std::invalid_argument when `bytes` are too few.
    MemoryShares(const std::vector<LayerShape>& layers, int page_tokens, DType kv, std::size_t bytes);
};

struct StorageStats {
    std::size_t bytes_read, bytes_written;
    int num_frames, num_available;
};

// One call at a time; others wait. After a failure of a drive every call throws std::runtime_error.
class StorageEngine {
public:
    StorageEngine(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                  const IsaChoice& choice, int threads, std::size_t memory_bytes,
                  const std::vector<DriveFile>& files, bool only_threads);
    ~StorageEngine();

    int num_pages() const { return vault_.drives().num_slots(); }
    const IsaChoice& isa() const { return choice_; }
    int threads() const { return pool_.size(); }
    std::size_t page_bytes() const { return frames_.page_bytes(); }
    std::size_t unit_bytes(int layer) const { return frames_.layer(layer).unit_bytes(); }
    StorageStats stats();
    // Of a drive, in words; empty: none.
    std::string failure();

    // The spans of `plan` will be written to. Throws std::invalid_argument, and changes nothing, when
    // memory has no frame for the last page of each.
    void begin(const Plan& plan);
    // They have been, or will not be.
    void end(const Plan& plan);
    void release(const int* pages, std::size_t num_pages);
    void copy_page(int from, int to);

    void append(int layer, const Plan& plan, const NewRows& rows);
    void attend(int layer, const Plan& plan, const void* queries, DType dtype, void* outputs,
                float* log_sum_exp);
    // Packs pages of a layer one after the other.
    void read(int layer, const int* pages, std::size_t num_pages, std::byte* to);

    void validate();

private:
    // A page that a span writes to, and the rows for it.
    struct Touched {
        int page, before;
        int offset, tokens;  // of the page
        std::size_t row;
        bool is_covered;
    };
    // What a page was before a step began that writes to it.
    struct Before {
        int slot;
        bool has_frame, is_full, is_dirty;
    };
    class Group;  // of transfers that are waited for

    std::vector<Touched> touched(const Plan& plan) const;
    void check(int layer, const Plan& plan);
    Before claim(const Touched& touched, std::unique_lock<std::mutex>& state);
    void disclaim(int page, const Before& before);
    void prepare_to_write(const Touched& touched, const Before& before,
                          std::unique_lock<std::mutex>& state);
    int half() const { return shares_.num_frames / 2; }
    void await_idle(int page, std::unique_lock<std::mutex>& state);
    void await_frame(int page, std::unique_lock<std::mutex>& state);
    void bring_in(int slot, int frame, std::unique_lock<std::mutex>& state);
    void append_to_drives(int layer, const Plan& plan, const NewRows& rows);
    void write_unit(int page, int layer, int slot, std::byte* buffer);
    void wrote(int page, std::byte* buffer, const std::string& failure);
    void write_back();
    std::vector<int> choose_victims();
    void read_run(int layer, std::vector<int> slots, std::byte* to, Group& group);
    void prepare(int layer, const Plan& plan);
    void prepare_page(int number, std::unique_lock<std::mutex>& state);
    void stream(const Attention& attention, int layer, const Pass& pass, const Workers& workers);
    [[noreturn]] void fail(const std::string& words);

    const IsaChoice choice_;
    const MemoryShares shares_;
    Store frames_;
    int num_layers_;
    Pool pool_;
    Buffers loads_, staged_;
    std::mutex mutex_;  // of calls
    std::mutex state_;  // of all below, and of residence_ but frames, which only calls change
    std::condition_variable changed_, work_;
    Residence residence_;
    FramePages in_frames_;
    int wanting_ = 0;   // calls that wait for a frame
    int num_writing_ = 0;  // pages that are on their way to a drive
    bool is_closing_ = false;
    std::string failure_;
    Vault vault_;  // ends before what its transfers touch
    std::thread writer_;
};

}  // namespace glinthawk
