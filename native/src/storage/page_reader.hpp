// Fetches pages from drives, and from memory where they are there.
#pragma once

#include <vector>

#include "pages/store.hpp"
#include "storage/buffers.hpp"
#include "storage/residence.hpp"
#include "storage/transfer_group.hpp"
#include "storage/vault.hpp"

namespace glinthawk {

class PageReader {
public:
    // Buffers have room for a chunk's pages.
    PageReader(std::size_t buffer_bytes, int num_buffers, Store& frames, int num_layers,
               const Residence& residence, Vault& vault);

    Buffers& buffers() { return buffers_; }

    // All layers of a page, from a slot to a frame. What went wrong, or nothing.
    std::string bring_in(int slot, int frame);
    // Packs pages of a layer one after the other. What went wrong, or nothing.
    std::string read(int layer, const int* pages, std::size_t num_pages, std::byte* to);

private:
    void read_run(int layer, std::vector<int> slots, std::byte* to, TransferGroup& group);

    Buffers buffers_;
    Store& frames_;
    const int num_layers_;
    const Residence& residence_;
    Vault& vault_;
};

}  // namespace glinthawk
