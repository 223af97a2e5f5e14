// A sequence's new tokens in a step, and the pages it has.
#pragma once

namespace glinthawk {

struct Span {
    int start, length;
    int row;           // of its first token in the batch
    const int* pages;  // cover start + length tokens
    int oldest;        // token that its rows see, whatever the window
    int end() const { return start + length; }
};

}  // namespace glinthawk
