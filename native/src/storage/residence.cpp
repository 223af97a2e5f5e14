#include "storage/residence.hpp"

#include <algorithm>
#include <stdexcept>

namespace glinthawk {

Residence::Residence(int num_pages, int num_frames)
    : pages_(num_pages), num_frames_(num_frames), owners_(num_frames, -1) {
    for (int frame = num_frames; frame-- > 0;) free_.push_back(frame);
}

bool Residence::settle_in(int page) {
    if (free_.empty() && !drop_one()) return false;
    const int frame = free_.back();
    free_.pop_back();
    owners_[frame] = page;
    pages_[page].frame = frame;
    return true;
}

// Clean pages are alike: all are on a drive and all have been idle for as long as any. So the next one
// round the clock goes.
int Residence::drop_one() {
    for (int looked = 0; num_clean_ && looked < num_frames_; ++looked) {
        const int owner = owners_[hand_];
        hand_ = (hand_ + 1) % num_frames_;
        if (owner < 0 || !pages_[owner].is_clean() || !pages_[owner].is_idle()) continue;
        move_out(owner);
        return true;
    }
    return false;
}

void Residence::move_out(int number) {
    Page& page = pages_[number];
    if (page.is_clean()) --num_clean_;
    owners_[page.frame] = -1;
    free_.push_back(page.frame);
    page.frame = -1;
    page.is_dirty = false;
}

void Residence::became_clean(int number) {
    pages_[number].is_dirty = false;
    ++num_clean_;
}

void Residence::became_dirty(int number) {
    Page& page = pages_[number];
    if (page.is_clean()) --num_clean_;
    page.is_dirty = true;
    page.is_full = false;
    page.slot = -1;
}

std::vector<int> Residence::victims(int count, bool if_any) const {
    std::vector<int> found;
    for (const int owner : owners_) {
        if (owner < 0) continue;
        const Page& page = pages_[owner];
        if (page.is_dirty && page.is_idle() && (page.is_full || if_any)) found.push_back(owner);
    }
    const auto first = [this](int a, int b) {
        const Page &one = pages_[a], &other = pages_[b];
        return one.is_full != other.is_full ? one.is_full : one.used < other.used;
    };
    const auto end = found.begin() + std::min<std::size_t>(count, found.size());
    std::partial_sort(found.begin(), end, found.end(), first);
    found.erase(end, found.end());
    return found;
}

void Residence::validate() const {
    const auto require = [](bool holds) {
        if (!holds) throw std::logic_error("the sums of frames do not hold");
    };
    int owned = 0, clean = 0;
    for (int frame = 0; frame < num_frames_; ++frame) {
        if (owners_[frame] < 0) continue;
        ++owned;
        require(pages_[owners_[frame]].frame == frame);
    }
    for (const Page& page : pages_) clean += page.is_clean();
    require(owned + int(free_.size()) == num_frames_);
    require(clean == num_clean_);
}

}  // namespace glinthawk
