#include "agent/entry/session.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace ds4::agent {

void Session::append(std::span<const std::int32_t> tokens) {
  journal_.insert(journal_.end(), tokens.begin(), tokens.end());
}

void Session::truncate(std::size_t size) {
  assert(route_id_ == 0);
  journal_.resize(size);
}

void Session::open(std::uint64_t route_id, std::uint32_t context) {
  assert(route_id_ == 0 && route_id != 0);
  route_id_ = route_id;
  context_ = context;
}

void Session::copy(const Session& source, std::uint64_t route_id) {
  assert(route_id_ == 0 && journal_.empty());
  journal_ = source.journal_;
  if (route_id == 0) return;
  open(route_id, source.context_);
  fed_ = source.fed_;
  fed_hash_ = source.fed_hash_;
}

wire::ForkItem Session::fork_item(std::uint64_t target, std::uint32_t entry) const {
  return {route_id_, target, fed_hash_, fed_, entry};
}

std::uint64_t Session::lose() {
  fed_ = 0;
  fed_hash_ = 0;
  chunks_.clear();
  return std::exchange(route_id_, 0);
}

wire::WorkItem Session::next_item(std::uint32_t most, std::uint32_t entry,
                                  const SamplingParams& sampling) {
  assert(route_id_ != 0 && unfed() > 0);
  const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(unfed(), most));
  wire::WorkItem item;
  item.session = route_id_;
  item.first_position = fed_;
  item.context = context_;
  item.prefix_hash = fed_hash_;
  item.entry = entry;
  item.tokens.assign(journal_.begin() + fed_, journal_.begin() + fed_ + count);
  fed_ += count;
  fed_hash_ = wire::extend_hash(fed_hash_, item.tokens);
  if (unfed() == 0) item.sample = sampling;
  return item;
}

void Session::track(const wire::WorkItem& item) {
  const auto tokens = static_cast<std::uint32_t>(item.tokens.size());
  chunks_.push_back({item.first_position + tokens, tokens});
}

std::uint64_t Session::acknowledge(std::uint32_t position) {
  std::uint64_t tokens = 0;
  while (!chunks_.empty() && chunks_.front().end <= position) {
    tokens += chunks_.front().tokens;
    chunks_.pop_front();
  }
  return tokens;
}

std::uint64_t Session::tokens_in_flight() const {
  std::uint64_t tokens = 0;
  for (const Chunk& chunk : chunks_) tokens += chunk.tokens;
  return tokens;
}

}  // namespace ds4::agent
