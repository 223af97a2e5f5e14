// Sends pages to drives, a layer at a time.
#pragma once

#include "storage/buffers.hpp"
#include "storage/shared_residence.hpp"
#include "storage/vault.hpp"

namespace glinthawk {

class PageWriter {
public:
    PageWriter(std::size_t buffer_bytes, int num_buffers, SharedResidence& residence, Vault& vault)
        : buffers_(buffer_bytes, num_buffers), residence_(residence), vault_(vault) {}

    // `fill(buffer)` packs the page in this layer. It is on its way when this returns; when all of its
    // layers are there, the residence knows.
    template <class Fill>
    void write(int page, int layer, int slot, const Fill& fill) {
        std::byte* buffer = buffers_.take();
        fill(buffer);
        vault_.write(layer, slot, buffer, [this, page, buffer](const std::string& failure) {
            {
                const auto lock = residence_.lock();
                residence_.wrote(page, failure);
            }
            buffers_.give_back(buffer);
        });
    }

private:
    Buffers buffers_;
    SharedResidence& residence_;
    Vault& vault_;
};

}  // namespace glinthawk
