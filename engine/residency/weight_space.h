#pragma once
// WeightSpace: the one place of a model's weights in this process, shared by every slice of it.
//
// While a route changes, two slices are alive: the one that serves and the one that is being
// prepared, and most of their layers are the same. If each had its own memory, moving four layers
// would hold everything twice. So slices own nothing; they *claim* bytes of one address space. A
// claim loads the difference between its cover and what is claimed already, and when it goes, the
// bytes that nobody else claims go with it, at once. What stays is not touched: same addresses,
// same physical pages, still locked.
//
// Where the pages come from is the PageStore's business.
//
// Thread rule: claims are made by one thread at a time; they may end on any.
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/result.h"
#include "engine/residency/fault_guard.h"
#include "engine/residency/load_options.h"
#include "engine/residency/page_store.h"
#include "engine/residency/span_cover.h"

namespace ds4 {

class WeightSpace : public std::enable_shared_from_this<WeightSpace> {
 public:
  /// Bytes that a slice holds; they are let go when it is destroyed. Keeps its space alive.
  class Claim {
   public:
    Claim() = default;
    Claim(Claim&& other) noexcept;
    Claim& operator=(Claim&& other) noexcept;
    ~Claim();

   private:
    friend class WeightSpace;
    Claim(std::shared_ptr<WeightSpace> space, std::uint64_t id)
        : space_(std::move(space)), id_(id) {}
    std::shared_ptr<WeightSpace> space_;
    std::uint64_t id_ = 0;
  };

  struct Loaded {
    Claim claim;
    SpanCover cover;
    LoadFigures figures;
    std::string note;  // sentences for the operator; empty if all is as asked
  };

  /// Reserves the addresses; reads nothing.
  static Result<std::shared_ptr<WeightSpace>> open(std::shared_ptr<const ModelFile> model,
                                                   std::unique_ptr<PageStore> store);
  ~WeightSpace();

  /// Makes the cover of `range` resident. Errors: kOutOfRange if the file has no such layers,
  /// kMismatch if it changed since it was opened, kCancelled, kIo, kPermission; nothing is left
  /// behind.
  Result<Loaded> claim(const LayerRange& range, const LoadOptions& options);

  const ModelFile& model() const { return *model_; }
  const PageStore& store() const { return *store_; }
  const SpanMap& map() const { return map_; }
  /// Claimed by anybody.
  Intervals claimed() const;
  /// The process ends in order: claims that end from now on take nothing from memory that can
  /// outlive it.
  void leave() { store_->leave(); }
  /// Why what is computed from these pages cannot be trusted any more. Cheap: one atomic load.
  std::optional<std::string> broken() const;

 private:
  WeightSpace(std::shared_ptr<const ModelFile> model, std::unique_ptr<PageStore> store,
              SpanMap map);
  void release(std::uint64_t id);

  struct Member {
    std::uint64_t id = 0;
    LayerRange range;
    Intervals intervals;
  };
  Intervals claimed_locked() const;

  const std::shared_ptr<const ModelFile> model_;
  const std::unique_ptr<PageStore> store_;
  SpanMap map_;
  const FaultGuard guard_;

  mutable std::mutex mutex_;  // of what follows
  std::vector<Member> members_;
  std::uint64_t last_id_ = 0;
};

}  // namespace ds4
