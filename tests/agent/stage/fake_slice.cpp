#include "tests/agent/stage/fake_slice.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace ds4::test {
namespace {

constexpr std::uint32_t kModulus = 65521;

float* row_of(std::span<float> streams, std::size_t row) {
  return streams.data() + row * 4;
}

void logits_of(std::uint32_t value, std::span<float> logits) {
  for (std::size_t token = 0; token < logits.size(); ++token) {
    logits[token] = static_cast<float>((value * (token * 2 + 3) + token) % 1009);
  }
}

}  // namespace

void FakeControl::close_gate() {
  const std::lock_guard lock(mutex_);
  gate_closed_ = true;
}

void FakeControl::open_gate() {
  const std::lock_guard lock(mutex_);
  gate_closed_ = false;
  changed_.notify_all();
}

void FakeControl::pass_gate() {
  std::unique_lock lock(mutex_);
  inside_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return !gate_closed_; });
  inside_ = false;
}

void FakeControl::wait_until_inside() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return inside_; });
}

void FakeControl::record(Call call) {
  const std::lock_guard lock(mutex_);
  calls_.push_back(std::move(call));
}

std::vector<FakeControl::Call> FakeControl::calls() const {
  const std::lock_guard lock(mutex_);
  return calls_;
}

FakeSlice::FakeSlice(const FakeOptions& options, std::shared_ptr<FakeControl> control)
    : options_(options),
      control_(std::move(control)),
      range_{options.first_layer, options.last_layer, options.output} {
  params_.n_layer = kFakeLayers;
  params_.n_vocab = kFakeVocabulary;
  params_.n_embd = 2;
  params_.n_streams = 2;
}

std::uint64_t FakeSlice::positions_reserved() const {
  std::uint64_t sum = 0;
  for (const auto& [session, cache] : caches_) sum += cache.context;
  return sum;
}

Result<void> FakeSlice::open_session(SessionId session, std::uint32_t context) {
  if (caches_.contains(session)) {
    return fail(ErrorCode::kInvalidArgument, fmt::format("session {} exists", session));
  }
  if (positions_reserved() + context > options_.kv_budget_positions) {
    return fail(ErrorCode::kResourceExhausted, "the KV budget is used up");
  }
  caches_[session] = {context, 0, std::vector<std::uint32_t>(range_.count())};
  return {};
}

void FakeSlice::close_session(SessionId session) {
  caches_.erase(session);
}

Result<void> FakeSlice::fork_session(SessionId source, SessionId target) {
  const auto found = caches_.find(source);
  if (found == caches_.end()) return fail(ErrorCode::kNotFound, "no such session");
  DS4_TRY(open_session(target, found->second.context));
  caches_[target] = caches_.at(source);
  return {};
}

namespace {

struct DetachedLayers final : DetachedSession {
  std::vector<std::uint32_t> layers;
  std::vector<std::span<const std::byte>> pieces() const override {
    const auto bytes = std::as_bytes(std::span(layers));
    return {bytes.first(4), bytes.subspan(4)};
  }
};

}  // namespace

Result<std::unique_ptr<DetachedSession>> FakeSlice::detach_session(SessionId session) {
  if (!options_.hands_out) return Slice::detach_session(session);
  const auto found = caches_.find(session);
  if (found == caches_.end()) return fail(ErrorCode::kNotFound, "no such session");
  if (options_.on_detach) options_.on_detach();
  auto detached = std::make_unique<DetachedLayers>();
  detached->layers = std::move(found->second.layers);
  caches_.erase(found);
  return detached;
}

Result<void> FakeSlice::restore_session(SessionId session, std::uint32_t context,
                                        std::uint32_t position, const SessionSource& source) {
  DS4_TRY(open_session(session, context));
  Cache& cache = caches_.at(session);
  cache.position = position;
  auto filled = source(std::as_writable_bytes(std::span(cache.layers)));
  if (!filled) caches_.erase(session);
  return filled;
}

Result<std::uint32_t> FakeSlice::position(SessionId session) const {
  const auto found = caches_.find(session);
  if (found == caches_.end()) return fail(ErrorCode::kNotFound, "no such session");
  return found->second.position;
}

Result<void> FakeSlice::check(const SliceInput& input, const SliceOutput& output) const {
  std::size_t rows = 0;
  std::size_t wanted = 0;
  std::set<SessionId> seen;
  for (const Segment& segment : input.segments) {
    const auto found = caches_.find(segment.session);
    if (found == caches_.end()) return fail(ErrorCode::kNotFound, "no such session");
    if (!seen.insert(segment.session).second) {
      return fail(ErrorCode::kInvalidArgument, "a session twice in one call");
    }
    if (segment.tokens.empty() || segment.first_position != found->second.position) {
      return fail(ErrorCode::kInvalidArgument, "a position that is not the next");
    }
    if (segment.first_position + segment.tokens.size() > found->second.context) {
      return fail(ErrorCode::kOutOfRange, "beyond the context");
    }
    for (const std::int32_t token : segment.tokens) {
      if (token < 0 || token >= static_cast<std::int32_t>(kFakeVocabulary)) {
        return fail(ErrorCode::kOutOfRange, fmt::format("token {} is unknown", token));
      }
    }
    rows += segment.tokens.size();
    wanted += segment.logits == LogitsWanted::kLast;
  }
  const bool sizes_fit =
      rows <= options_.max_rows &&
      input.streams.size() == (range_.has_embedding() ? 0 : rows * 4) &&
      output.streams.size() == (range_.output ? 0 : rows * 4) &&
      output.logits.size() ==
          (output.tokens.empty() && range_.output ? wanted * kFakeVocabulary : 0) &&
      (output.tokens.empty() || output.tokens.size() == wanted);
  if (!sizes_fit) return fail(ErrorCode::kInvalidArgument, "sizes that do not fit");
  return {};
}

/// Returns what the row carries on to the next layer.
std::uint32_t FakeSlice::run_row(Cache& cache, std::int32_t token, const float* in) {
  std::uint32_t x = static_cast<std::uint32_t>(token) * 31 + 7;
  if (in != nullptr) {
    x = static_cast<std::uint32_t>(in[0]);
    if (static_cast<std::int32_t>(in[2]) != token ||
        static_cast<std::uint32_t>(in[3]) != cache.position) {
      ++control_->misplaced_rows;
    }
  }
  for (std::uint32_t i = 0; i < range_.count(); ++i) {
    std::uint32_t& state = cache.layers[i];
    state = (state * 33 + x * 17 + cache.position * 5 + range_.first + i) % kModulus;
    x = state;
  }
  ++cache.position;
  return x;
}

Result<void> FakeSlice::forward(const SliceInput& input, const SliceOutput& output) {
  control_->pass_gate();
  if (control_->fail_all) return fail(ErrorCode::kIo, "the device is gone");
  DS4_TRY(check(input, output));
  FakeControl::Call call;
  std::size_t row = 0;
  std::size_t wanted = 0;
  for (const Segment& segment : input.segments) {
    Cache& cache = caches_.at(segment.session);
    std::uint32_t x = 0;
    for (const std::int32_t token : segment.tokens) {
      const float* in = range_.has_embedding() ? nullptr : input.streams.data() + row * 4;
      const auto position = static_cast<float>(cache.position);
      x = run_row(cache, token, in);
      if (!range_.output) {
        const float out[4] = {static_cast<float>(x), static_cast<float>(x / 2),
                              static_cast<float>(token), position};
        std::copy(out, out + 4, row_of(output.streams, row));
      }
      ++row;
    }
    if (range_.output && segment.logits == LogitsWanted::kLast) {
      std::vector<float> logits(kFakeVocabulary);
      logits_of(x, logits);
      if (output.tokens.empty())
        std::copy(logits.begin(), logits.end(), output.logits.data() + kFakeVocabulary * wanted++);
      else
        output.tokens[wanted++] =
            Sampler(kFakeVocabulary).sample(logits, segment.sampling, cache.position);
    }
    call.sessions.push_back(segment.session);
    call.rows.push_back(static_cast<std::uint32_t>(segment.tokens.size()));
    call.logits.push_back(segment.logits);
  }
  control_->record(std::move(call));
  if (options_.spend) options_.spend(static_cast<std::uint32_t>(row));
  return {};
}

std::vector<std::int32_t> greedy_answer(const std::vector<std::int32_t>& prompt,
                                        std::size_t tokens) {
  FakeSlice slice({}, std::make_shared<FakeControl>());
  (void)slice.open_session(1, 1U << 16);
  std::vector<std::int32_t> all = prompt;
  std::vector<float> logits(kFakeVocabulary);
  for (std::uint32_t position = 0; position + 1 < prompt.size() + tokens; ++position) {
    if (position >= all.size()) std::abort();
    const Segment segment{1, position, {&all[position], 1}, LogitsWanted::kLast};
    if (!slice.forward({{&segment, 1}, {}}, {{}, logits})) std::abort();
    if (position + 1 < prompt.size()) continue;
    all.push_back(
        static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return {all.begin() + static_cast<std::ptrdiff_t>(prompt.size()), all.end()};
}

}  // namespace ds4::test
