#pragma once
// Where pages come from: the seam between the strategies of host memory.
//
// A WeightSpace decides which bytes of the model file are wanted; a PageStore puts them there. The
// `file` store maps the model file itself, so that its page cache is the residence and costs
// nothing twice. The `memfd` store (memfd_store.h) copies into memory that can outlive the process.
//
// Thread rule: fetch() from one thread at a time; release() from any, also while a fetch() of other
// bytes runs.
#include <memory>
#include <span>
#include <string_view>

#include "engine/base/result.h"
#include "engine/residency/interval_set.h"
#include "engine/residency/layer_range.h"
#include "engine/residency/load_options.h"
#include "engine/residency/span_map.h"

namespace ds4 {

class ModelFile;

class PageStore {
 public:
  virtual ~PageStore() = default;

  /// "file", "memfd": as in the configuration.
  virtual std::string_view name() const = 0;
  /// Maps `missing`, all of the cover of `range` that `map` lacks, and makes it resident. After an
  /// error the caller releases `missing`, whatever of it was mapped.
  virtual Result<void> fetch(const LayerRange& range, std::span<const Interval> missing,
                             SpanMap& map, LoadRun& run) = 0;
  /// Nobody wants `gone` any more; the slices of `kept` live on.
  virtual void release(std::span<const Interval> gone, std::span<const LayerRange> kept,
                       SpanMap& map) = 0;
  /// The process ends in order: what can outlive it should.
  virtual void leave() = 0;
  /// True if changes of the model file's bytes reach the pages that serve.
  virtual bool shows_the_file() const = 0;
  /// True if mincore(2) may be believed about the pages.
  virtual bool owns_pages() const = 0;
};

/// `drop_released`: released pages leave the page cache at once, instead of when memory is needed.
std::unique_ptr<PageStore> make_file_store(std::shared_ptr<const ModelFile> model,
                                           bool drop_released);

}  // namespace ds4
