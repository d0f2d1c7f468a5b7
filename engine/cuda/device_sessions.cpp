#include "engine/cuda/device_sessions.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/model/compressor.h"
#include "engine/model/sessions.h"

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kPartAlign = 256;
constexpr std::uint64_t kHalf = 2;

/// Hands out parts of the allocation, one behind the other.
class Carver {
 public:
  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t begin = end_;
    end_ += (bytes + kPartAlign - 1) / kPartAlign * kPartAlign;
    return begin;
  }
  std::uint64_t end() const { return end_; }

 private:
  std::uint64_t end_ = 0;
};

/// Both copies of a compressor's maxima, sums and weighted sums.
std::uint64_t state_bytes(std::uint32_t dim, std::uint32_t ratio) {
  return 2 * 3 * sizeof(float) * std::uint64_t{Compressor::width(dim, ratio)};
}

}  // namespace

DeviceCachePlan DeviceCachePlan::make(const HyperParams& hp, const LayerRange& range,
                                      std::uint32_t context) {
  DeviceCachePlan plan;
  Carver carver;
  carver.take(sizeof(CacheLayer) * range.count());
  for (std::uint32_t index = range.first; index <= range.last; ++index) {
    const std::uint32_t ratio = hp.compress_ratio[index];
    CacheLayer layer{};
    layer.ring_rows = std::min(hp.window, context);
    layer.raw = carver.take(kHalf * layer.ring_rows * hp.head_dim);
    if (ratio != 0) {
      layer.compressed = carver.take(kHalf * (context / ratio) * hp.head_dim);
      layer.state = carver.take(state_bytes(hp.head_dim, ratio));
    }
    if (ratio == 4) {
      layer.index = carver.take(kHalf * (context / ratio) * hp.index_dim);
      layer.index_state = carver.take(state_bytes(hp.index_dim, ratio));
    }
    plan.layers.push_back(layer);
  }
  plan.bytes = carver.end();
  return plan;
}

Result<DeviceSession*> DeviceSessions::find(SessionId session) const {
  const auto found = sessions_.find(session);
  if (found == sessions_.end())
    return fail(ErrorCode::kNotFound, fmt::format("no session {} is open", session));
  return found->second.get();
}

Result<DeviceSession> DeviceSessions::allocate(std::uint32_t context) const {
  const DeviceCachePlan plan = DeviceCachePlan::make(hp_, range_, context);
  if (budget_bytes_ != 0 && plan.bytes > budget_bytes_ - bytes_)
    return fail(
        ErrorCode::kResourceExhausted,
        fmt::format("a KV cache for {} positions needs {} bytes, but {} of {} are left: close "
                    "a session, ask for a shorter context or raise the budget",
                    context, plan.bytes, budget_bytes_ - bytes_, budget_bytes_));
  DeviceSession session;
  DS4_ASSIGN(session.cache, device_buffer<std::byte>(
                                plan.bytes, fmt::format("a KV cache of {} positions", context)));
  session.context = context;
  DS4_CUDA_TRY(cudaMemcpy(session.cache.data(), plan.layers.data(),
                          plan.layers.size() * sizeof(CacheLayer), cudaMemcpyHostToDevice),
               "write the layout of a KV cache");
  return session;
}

Result<void> DeviceSessions::open(SessionId session, std::uint32_t context) {
  if (sessions_.contains(session))
    return fail(ErrorCode::kInvalidArgument, fmt::format("session {} is open already", session));
  if (context == 0 || context > hp_.context_length)
    return fail(ErrorCode::kOutOfRange,
                fmt::format("a context of {} positions: this model takes 1 to {}", context,
                            hp_.context_length));
  DS4_ASSIGN(DeviceSession opened, allocate(context));
  bytes_ += opened.cache.size();
  sessions_.emplace(session, std::make_unique<DeviceSession>(std::move(opened)));
  return {};
}

void DeviceSessions::close(SessionId session) {
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  bytes_ -= found->second->cache.size();
  sessions_.erase(found);
}

Result<void> DeviceSessions::fork(SessionId source, SessionId target) {
  DS4_ASSIGN(const DeviceSession* from, find(source));
  DS4_TRY(open(target, from->context));
  DeviceSession& to = *sessions_[target];
  to.position = from->position;
  to.state_slot = from->state_slot;
  const cudaError_t copied =
      cudaMemcpy(to.cache.data(), from->cache.data(), from->cache.size(), cudaMemcpyDeviceToDevice);
  if (copied == cudaSuccess) return {};
  close(target);
  return fail_cuda(copied, fmt::format("copy the KV cache of session {}", source));
}

Result<std::uint32_t> DeviceSessions::position(SessionId session) const {
  DS4_ASSIGN(const DeviceSession* found, find(session));
  return found->position;
}

Result<void> DeviceSessions::plan_segment(const Segment& segment, std::uint32_t max_rows,
                                          CallPlan& call) {
  DS4_ASSIGN(DeviceSession * session, find(segment.session));
  if (session->last_call == calls_)
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("session {} has two segments in one call", segment.session));
  session->last_call = calls_;
  const std::size_t count = segment.tokens.size();
  if (count > max_rows - call.n())
    return fail(ErrorCode::kOutOfRange, fmt::format("a call of more than {} rows", max_rows));
  DS4_TRY(check_segment(segment, session->position, session->context, hp_.n_vocab));

  const auto index = static_cast<std::uint32_t>(call.segments.size());
  call.segments.push_back({session->cache.data(), call.n(), segment.first_position,
                           static_cast<std::uint32_t>(count), session->state_slot});
  call.sessions.push_back(session);
  for (std::size_t i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    if (range_.output &&
        (segment.logits == LogitsWanted::kAll || (segment.logits == LogitsWanted::kLast && last)))
      call.wanted.push_back(call.n());
    const std::uint32_t position = segment.first_position + static_cast<std::uint32_t>(i);
    call.rows.push_back({position, segment.tokens[i], index, last ? 1u : 0u});
    call.last_position = std::max(call.last_position, position);
  }
  return {};
}

Result<void> DeviceSessions::plan(std::span<const Segment> segments, std::uint32_t max_rows,
                                  CallPlan& call) {
  ++calls_;
  call.rows.clear();
  call.segments.clear();
  call.wanted.clear();
  call.sessions.clear();
  call.last_position = 0;
  if (segments.empty()) return fail(ErrorCode::kInvalidArgument, "a call without segments");
  for (const Segment& segment : segments) DS4_TRY(plan_segment(segment, max_rows, call));
  return {};
}

void DeviceSessions::advance(const CallPlan& call) {
  for (std::size_t i = 0; i < call.segments.size(); ++i) {
    call.sessions[i]->position += call.segments[i].count;
    call.sessions[i]->state_slot ^= 1;
  }
}

}  // namespace ds4::cuda
