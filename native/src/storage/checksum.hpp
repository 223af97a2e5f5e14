// A checksum that finds what a drive has got wrong.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glinthawk {

// CRC-32C over four quarters of the memory side by side, and over their four results: one alone would
// wait for itself, and reach a third of the speed. Everything that CRC-32C finds is found.
// `bytes` is a multiple of 32.
std::uint32_t checksum(const std::byte* memory, std::size_t bytes);

// The same bits without instructions for it: the slow truth.
std::uint32_t checksum_plain(const std::byte* memory, std::size_t bytes);

}  // namespace glinthawk
