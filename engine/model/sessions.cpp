#include "engine/model/sessions.h"

#include <fmt/format.h>

#include <algorithm>

namespace ds4 {
namespace {

class DetachedCache final : public DetachedSession {
 public:
  explicit DetachedCache(std::unique_ptr<SessionCache> cache) : cache_(std::move(cache)) {}
  std::vector<std::span<const std::byte>> pieces() const override {
    const auto held = cache_->held();
    return {held.begin(), held.end()};
  }

 private:
  const std::unique_ptr<SessionCache> cache_;
};

}  // namespace

Result<void> check_buffers(const HyperParams& hp, const LayerRange& range, std::size_t rows,
                           std::size_t wanted_rows, const SliceInput& input,
                           const SliceOutput& output) {
  const auto check = [](std::string_view name, std::size_t found,
                        std::size_t wanted) -> Result<void> {
    if (found == wanted) return {};
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("{}: {} where this call needs {}", name, found, wanted));
  };
  const std::size_t streams = rows * hp.n_streams * hp.n_embd;
  DS4_TRY(
      check("floats of input streams", input.streams.size(), range.has_embedding() ? 0 : streams));
  DS4_TRY(check("floats of output streams", output.streams.size(), range.output ? 0 : streams));
  if (output.tokens.empty()) return check("logits", output.logits.size(), wanted_rows * hp.n_vocab);
  DS4_TRY(check("logits beside tokens", output.logits.size(), 0));
  return check("tokens to sample", output.tokens.size(), wanted_rows);
}

Result<void> check_segment(const Segment& segment, std::uint32_t position, std::uint32_t context,
                           std::uint32_t n_vocab) {
  const std::size_t count = segment.tokens.size();
  if (count == 0)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("session {}: a segment without tokens", segment.session));
  if (segment.first_position != position)
    return fail(ErrorCode::kMismatch,
                fmt::format("session {} holds {} positions, but the segment begins at {}",
                            segment.session, position, segment.first_position));
  if (count > context - position)
    return fail(ErrorCode::kOutOfRange,
                fmt::format("session {}: {} more tokens at position {} exceed its context of {}",
                            segment.session, count, position, context));
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t token = segment.tokens[i];
    if (token < 0 || static_cast<std::uint32_t>(token) >= n_vocab)
      return fail(ErrorCode::kOutOfRange,
                  fmt::format("session {}: token {} at position {} is outside the vocabulary of {}",
                              segment.session, token, segment.first_position + i, n_vocab));
  }
  return {};
}

Result<void> Sessions::open(SessionId session, std::uint32_t context) {
  if (caches_.contains(session))
    return fail(ErrorCode::kInvalidArgument, fmt::format("session {} is open already", session));
  if (context == 0 || context > hp_.context_length)
    return fail(ErrorCode::kOutOfRange,
                fmt::format("a context of {} positions: this model takes 1 to {}", context,
                            hp_.context_length));
  const std::uint64_t needed = bytes_for(context);
  const std::uint64_t budget = budget_bytes_;
  if (budget != 0 && needed > budget - bytes_)
    return fail(
        ErrorCode::kResourceExhausted,
        fmt::format("a KV cache for {} positions needs {} bytes, but {} of {} are left: close "
                    "a session, ask for a shorter context or raise the budget",
                    context, needed, budget - bytes_, budget));
  DS4_ASSIGN(auto cache, SessionCache::open(hp_, range_, graph_, context, ops_));
  bytes_ += cache->bytes();
  caches_.emplace(session, std::move(cache));
  return {};
}

void Sessions::close(SessionId session) {
  const auto found = caches_.find(session);
  if (found == caches_.end()) return;
  bytes_ -= found->second->bytes();
  caches_.erase(found);
}

Result<void> Sessions::fork(SessionId source, SessionId target) {
  const auto found = caches_.find(source);
  if (found == caches_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no session {} is open", source));
  const SessionCache& from = *found->second;  // stays where it is while others are added
  auto pieces = from.held();
  auto next = pieces.cbegin();
  return restore(target, from.context(), from.position, [&](std::span<std::byte> to) {
    std::copy_n((next++)->begin(), to.size(), to.begin());
    return Result<void>();
  });
}

Result<std::unique_ptr<DetachedSession>> Sessions::detach(SessionId session) {
  const auto found = caches_.find(session);
  if (found == caches_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no session {} is open", session));
  bytes_ -= found->second->bytes();
  auto detached = std::make_unique<DetachedCache>(std::move(found->second));
  caches_.erase(found);
  return detached;
}

Result<void> Sessions::restore(SessionId session, std::uint32_t context, std::uint32_t position,
                               const SessionSource& source) {
  if (position > context)
    return fail(ErrorCode::kOutOfRange, fmt::format("session {}: {} positions in a context of {}",
                                                    session, position, context));
  DS4_TRY(open(session, context));
  SessionCache& cache = *caches_.at(session);
  cache.position = position;
  for (const std::span<std::byte> part : cache.held()) {
    if (auto filled = source(part); !filled) {
      close(session);
      return filled;
    }
  }
  return {};
}

Result<std::uint32_t> Sessions::position(SessionId session) const {
  const auto found = caches_.find(session);
  if (found == caches_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no session {} is open", session));
  return found->second->position;
}

Result<void> Sessions::plan_segment(const Segment& segment, std::uint32_t max_rows, Batch& batch) {
  const auto found = caches_.find(segment.session);
  if (found == caches_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no session {} is open", segment.session));
  SessionCache& cache = *found->second;
  if (cache.last_call == calls_)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("session {} has two segments in one call", segment.session));
  cache.last_call = calls_;
  const std::size_t count = segment.tokens.size();
  if (count > max_rows - batch.n())
    return fail(ErrorCode::kOutOfRange, fmt::format("a call of more than {} rows", max_rows));
  DS4_TRY(check_segment(segment, cache.position, cache.context(), hp_.n_vocab));

  const auto index = static_cast<std::uint32_t>(batch.segments.size());
  batch.segments.push_back(
      {&cache, batch.n(), segment.first_position, static_cast<std::uint32_t>(count)});
  for (std::size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    if (range_.output &&
        (segment.logits == LogitsWanted::kAll || (segment.logits == LogitsWanted::kLast && last)))
      batch.wanted.push_back(batch.n());
    batch.rows.push_back(
        {index, segment.first_position + static_cast<std::uint32_t>(i), segment.tokens[i]});
  }
  return {};
}

Result<void> Sessions::plan(std::span<const Segment> segments, std::uint32_t max_rows,
                            Batch& batch) {
  ++calls_;
  batch.clear();
  if (segments.empty()) return fail(ErrorCode::kInvalidArgument, "a call without segments");
  for (const Segment& segment : segments) DS4_TRY(plan_segment(segment, max_rows, batch));
  return {};
}

}  // namespace ds4
