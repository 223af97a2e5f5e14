// Pages in memory and on drives behind the calls of one in memory: attention near storage.
#pragma once

#include <mutex>
#include <string>
#include <vector>

#include "attention/worker.hpp"
#include "kernels/isa.hpp"
#include "storage/memory_shares.hpp"
#include "storage/page_reader.hpp"
#include "storage/page_writer.hpp"
#include "storage/step_pages.hpp"
#include "storage/stream.hpp"
#include "storage/write_back.hpp"

namespace glinthawk {

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

    int num_pages() const { return drives_.num_slots(); }
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
    void attend(const Request& request);
    // Packs pages of a layer one after the other.
    void read(int layer, const int* pages, std::size_t num_pages, std::byte* to);

    void validate();

private:
    void check(int layer, const Plan& plan);
    void check_page(int page) const;
    void append_to_drives(int layer, const Plan& plan, const NewRows& rows);
    void prepare(int layer, const Plan& plan);
    void prepare_page(int page, SharedResidence::Lock& lock);
    void attend_pass(const Attention& attention, int layer, const Pass& pass,
                     const Workers& workers);

    const IsaChoice choice_;
    const MemoryShares shares_;
    Store frames_;
    const int num_layers_;
    Pool pool_;
    Drives drives_;
    std::mutex mutex_;  // of calls
    SharedResidence residence_;
    FramePages in_frames_;
    PageReader reader_;
    PageWriter writer_;
    StepPages steps_;
    Vault vault_;  // ends before what its transfers touch
    WriteBack write_back_;
};

}  // namespace glinthawk
