#include "storage/page_reader.hpp"

#include <cstring>
#include <utility>

namespace glinthawk {

PageReader::PageReader(std::size_t buffer_bytes, int num_buffers, Store& frames, int num_layers,
                       const Residence& residence, Vault& vault)
    : buffers_(buffer_bytes, num_buffers),
      frames_(frames),
      num_layers_(num_layers),
      residence_(residence),
      vault_(vault) {}

std::string PageReader::bring_in(int slot, int frame) {
    TransferGroup group;
    for (int layer = 0; layer < num_layers_; ++layer) {
        std::byte* buffer = buffers_.take();
        group.add();
        vault_.read({layer, {slot}}, buffer, [&, layer, buffer](const std::string& failure) {
            if (failure.empty()) frames_.fill(frames_.layer(layer), frame, buffer);
            buffers_.give_back(buffer);
            group.end(failure);
        });
    }
    return group.wait();
}

std::string PageReader::read(int layer, const int* pages, std::size_t num_pages, std::byte* to) {
    const Layer& shape = frames_.layer(layer);
    const std::size_t unit = shape.unit_bytes(), most = kChunkTokens / frames_.page_tokens();
    TransferGroup group;
    for (std::size_t i = 0; i < num_pages;) {
        std::byte* place = to + i * unit;
        std::vector<int> slots;  // of pages that follow one another, none of which is in memory
        for (; i < num_pages && slots.size() < most && residence_[pages[i]].frame < 0; ++i)
            slots.push_back(residence_[pages[i]].slot);
        if (slots.empty())
            frames_.read(shape, residence_[pages[i++]].frame, place);
        else
            read_run(layer, std::move(slots), place, group);
    }
    return group.wait();
}

// Pages that are wanted one after the other at `to`.
void PageReader::read_run(int layer, std::vector<int> slots, std::byte* to, TransferGroup& group) {
    const std::size_t unit = frames_.layer(layer).unit_bytes();
    const std::size_t padded = vault_.drives().padded(layer), count = slots.size();
    std::byte* buffer = buffers_.take();
    group.add();
    vault_.read({layer, std::move(slots)}, buffer,
                [=, this, &group](const std::string& failure) {
                    for (std::size_t i = 0; i < count; ++i)
                        std::memcpy(to + i * unit, buffer + i * padded, unit);
                    buffers_.give_back(buffer);
                    group.end(failure);
                });
}

}  // namespace glinthawk
