#pragma once
// What one session leaves behind in one slice.
//
// Per layer: a ring of the last `window` raw rows; in compressed layers a row for every block of
// `ratio` tokens, and with ratio 4 an index row beside it; and the compressor's running sums, which
// hold the tokens of the unfinished block (a softmax-weighted sum needs no more than its maximum,
// its weights' sum and its values' sum, so 128 pending tokens take three rows, not 256).
//
// Everything lies in one anonymous mapping made for the session's whole context when it opens.
// Pages that no position has reached are not backed by memory, and nothing needs to be cleared:
// every part is written before it is read.
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/base/result.h"
#include "engine/cpu/ops.h"
#include "engine/model/hyper_params.h"
#include "engine/model/row_store.h"
#include "engine/residency/layer_range.h"

namespace ds4 {

/// Where the parts of a session's cache lie, in bytes from its start.
struct KvPlan {
  struct Layer {
    std::uint64_t raw = 0, compressed = 0, index = 0, sums = 0, index_sums = 0;
  };
  /// Parts of one kind: `rows` of `row_bytes` in each of `layers` layers.
  struct Term {
    std::string_view what;
    std::uint64_t row_bytes = 0, rows = 0, layers = 0;
  };
  std::uint32_t context = 0;  // positions
  std::uint32_t ring_rows = 0;
  std::vector<Layer> layers;  // of the range, first one first
  std::vector<Term> terms;    // what `bytes` consists of, padding aside
  std::uint64_t bytes = 0;    // whole pages

  RowFormat kv;  // of raw and compressed rows
  RowFormat index;

  static KvPlan make(const HyperParams& params, const LayerRange& range, Graph graph,
                     std::uint32_t context);

  /// `bytes` as the sum it is: "raw rows 708 B x 128 x 43 layers + ... + padding 64 B = 5820416 B
  /// for 4096 positions". Bytes that no position has reached take no memory.
  std::string describe() const;
};

/// One layer's part of a session's cache.
struct LayerCache {
  RowStore raw;         // row p % ring_rows holds position p
  RowStore compressed;  // row b: tokens [b * ratio, (b + 1) * ratio)
  RowStore index;
  cpu::SoftmaxSums sums;  // {width} each; see compressor.h
  cpu::SoftmaxSums index_sums;
};

class SessionCache {
 public:
  static Result<std::unique_ptr<SessionCache>> open(const HyperParams& params,
                                                    const LayerRange& range, Graph graph,
                                                    std::uint32_t context, const cpu::Ops& ops);
  ~SessionCache();
  SessionCache(const SessionCache&) = delete;
  SessionCache& operator=(const SessionCache&) = delete;

  /// `index` counts from the range's first layer.
  LayerCache& layer(std::uint32_t index) { return layers_[index]; }
  std::uint32_t ring_rows() const { return ring_rows_; }
  std::uint32_t context() const { return context_; }
  std::uint64_t bytes() const { return bytes_; }

  /// The bytes that `position` positions have written, in a fixed order: all that a cache made with
  /// the same parameters needs to go on from there.
  std::vector<std::span<std::byte>> held() const;

  std::uint32_t position = 0;   // positions held
  std::uint64_t last_call = 0;  // the forward() call that last named this session

 private:
  /// A run of rows of the mapping, of which the first position / positions_per_row have been
  /// written (all of them if that is 0).
  struct Part {
    std::uint64_t begin = 0, row_bytes = 0, rows = 0;
    std::uint32_t positions_per_row = 0;
  };

  SessionCache() = default;

  std::byte* base_ = nullptr;
  std::uint64_t bytes_ = 0;
  std::uint32_t context_ = 0;
  std::uint32_t ring_rows_ = 0;
  std::vector<LayerCache> layers_;
  std::vector<Part> parts_;
};

}  // namespace ds4
