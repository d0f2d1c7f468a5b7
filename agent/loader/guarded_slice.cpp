#include "agent/loader/guarded_slice.h"

namespace ds4::agent {
namespace {

class GuardedSlice final : public Slice {
 public:
  GuardedSlice(std::unique_ptr<Slice> slice, std::shared_ptr<const Residence> weights)
      : weights_(std::move(weights)), slice_(std::move(slice)) {}

  const HyperParams& params() const override { return slice_->params(); }
  const LayerRange& range() const override { return slice_->range(); }
  std::uint32_t max_rows() const override { return slice_->max_rows(); }
  Result<void> open_session(SessionId session, std::uint32_t context) override {
    return slice_->open_session(session, context);
  }
  void close_session(SessionId session) override { slice_->close_session(session); }
  Result<void> fork_session(SessionId source, SessionId target) override {
    return slice_->fork_session(source, target);
  }
  Result<std::unique_ptr<DetachedSession>> detach_session(SessionId session) override {
    return slice_->detach_session(session);
  }
  Result<void> restore_session(SessionId session, std::uint32_t context, std::uint32_t position,
                               const SessionSource& source) override {
    return slice_->restore_session(session, context, position, source);
  }
  Result<std::uint32_t> position(SessionId session) const override {
    return slice_->position(session);
  }
  Result<void> forward(const SliceInput& input, const SliceOutput& output) override {
    DS4_TRY(slice_->forward(input, output));
    if (auto why = weights_->broken()) return fail(ErrorCode::kIo, *std::move(why));
    return {};
  }
  std::uint64_t kv_bytes() const override { return slice_->kv_bytes(); }
  std::uint64_t kv_bytes_for(std::uint32_t context) const override {
    return slice_->kv_bytes_for(context);
  }

 private:
  const std::shared_ptr<const Residence> weights_;
  const std::unique_ptr<Slice> slice_;
};

}  // namespace

std::unique_ptr<Slice> guard_slice(std::unique_ptr<Slice> slice,
                                   std::shared_ptr<const Residence> weights) {
  return std::make_unique<GuardedSlice>(std::move(slice), std::move(weights));
}

}  // namespace ds4::agent
