#include "engine/model/kv_cache.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "engine/model/compressor.h"

namespace ds4 {
namespace {

constexpr std::uint64_t kPartAlign = 64;

constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

/// Hands out parts of a mapping, one behind the other, and keeps account of them.
class Carver {
 public:
  explicit Carver(std::vector<KvPlan::Term>& terms) : terms_(terms) {}

  std::uint64_t rows(std::string_view what, std::uint64_t count, const RowFormat& format) {
    return take(what, count, format.row_bytes());
  }
  std::uint64_t sums(std::string_view what, std::uint32_t width) {
    return take(what, 1, 3 * std::uint64_t{width} * sizeof(float));
  }
  std::uint64_t end() const { return end_; }

 private:
  std::uint64_t take(std::string_view what, std::uint64_t count, std::uint64_t row_bytes) {
    const auto same = std::find_if(terms_.begin(), terms_.end(),
                                   [&](const KvPlan::Term& term) { return term.what == what; });
    if (same != terms_.end()) {
      ++same->layers;
    } else {
      terms_.push_back({what, row_bytes, count, 1});
    }
    const std::uint64_t begin = end_;
    end_ += round_up(count * row_bytes, kPartAlign);
    return begin;
  }

  std::vector<KvPlan::Term>& terms_;
  std::uint64_t end_ = 0;
};

cpu::SoftmaxSums sums_at(std::byte* base, std::uint32_t width) {
  auto* first = reinterpret_cast<float*>(base);
  return {first, first + width, first + 2 * std::size_t{width}};
}

}  // namespace

KvPlan KvPlan::make(const HyperParams& hp, const LayerRange& range, Graph graph,
                    std::uint32_t context) {
  const bool rounded = graph == Graph::kOfficial;
  KvPlan plan;
  plan.kv = rounded ? RowFormat::fp8(hp.head_dim, hp.head_dim - hp.rope_dim)
                    : RowFormat::floats(hp.head_dim);
  plan.index = rounded ? RowFormat::fp4(hp.index_dim) : RowFormat::floats(hp.index_dim);
  plan.context = context;
  plan.ring_rows = std::min(hp.window, context);
  Carver carver(plan.terms);
  for (std::uint32_t index = range.first; index <= range.last; ++index) {
    const std::uint32_t ratio = hp.compress_ratio[index];
    const bool is_indexed = ratio == 4;
    Layer layer;
    layer.raw = carver.rows("raw rows", plan.ring_rows, plan.kv);
    if (ratio != 0) {
      layer.compressed =
          carver.rows(is_indexed ? "ratio-4 rows" : "ratio-128 rows", context / ratio, plan.kv);
      layer.sums = carver.sums(is_indexed ? "ratio-4 sums" : "ratio-128 sums",
                               Compressor::width(hp.head_dim, ratio));
    }
    if (is_indexed) {
      layer.index = carver.rows("index rows", context / ratio, plan.index);
      layer.index_sums = carver.sums("index sums", Compressor::width(hp.index_dim, ratio));
    }
    plan.layers.push_back(layer);
  }
  plan.bytes = round_up(carver.end(), static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
  return plan;
}

std::string KvPlan::describe() const {
  std::string text;
  std::uint64_t padding = bytes;
  for (const Term& term : terms) {
    const std::uint64_t term_bytes = term.row_bytes * term.rows * term.layers;
    if (term_bytes == 0) continue;
    padding -= term_bytes;
    const std::string rows = term.rows == 1 ? "" : fmt::format(" x {}", term.rows);
    text += fmt::format("{} {} B{} x {} layer{} + ", term.what, term.row_bytes, rows, term.layers,
                        term.layers == 1 ? "" : "s");
  }
  return text + fmt::format("padding {} B = {} B for {} positions", padding, bytes, context);
}

Result<std::unique_ptr<SessionCache>> SessionCache::open(const HyperParams& hp,
                                                         const LayerRange& range, Graph graph,
                                                         std::uint32_t context,
                                                         const cpu::Ops& ops) {
  const KvPlan plan = KvPlan::make(hp, range, graph, context);
  void* base = mmap(nullptr, plan.bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return fail_errno(fmt::format("reserve {} bytes of KV cache", plan.bytes));
  std::unique_ptr<SessionCache> cache(new SessionCache());
  cache->base_ = static_cast<std::byte*>(base);
  cache->bytes_ = plan.bytes;
  cache->context_ = context;
  cache->ring_rows_ = plan.ring_rows;
  for (std::size_t i = 0; i < plan.layers.size(); ++i) {
    const KvPlan::Layer& at = plan.layers[i];
    const std::uint32_t ratio = hp.compress_ratio[range.first + i];
    LayerCache layer;
    const auto add_part = [&](std::uint64_t begin, std::uint64_t row_bytes, std::uint64_t rows,
                              std::uint32_t positions_per_row) {
      cache->parts_.push_back({begin, row_bytes, rows, positions_per_row});
    };
    const auto add_sums = [&](std::uint64_t begin, std::uint32_t width) {
      add_part(begin, 3 * std::uint64_t{width} * sizeof(float), 1, 0);
    };
    layer.raw = RowStore(cache->base_ + at.raw, plan.kv, ops);
    add_part(at.raw, plan.kv.row_bytes(), plan.ring_rows, 1);
    if (ratio != 0) {
      add_part(at.compressed, plan.kv.row_bytes(), context / ratio, ratio);
      add_sums(at.sums, Compressor::width(hp.head_dim, ratio));
      layer.compressed = RowStore(cache->base_ + at.compressed, plan.kv, ops);
      layer.sums = sums_at(cache->base_ + at.sums, Compressor::width(hp.head_dim, ratio));
    }
    if (ratio == 4) {
      add_part(at.index, plan.index.row_bytes(), context / ratio, ratio);
      add_sums(at.index_sums, Compressor::width(hp.index_dim, ratio));
      layer.index = RowStore(cache->base_ + at.index, plan.index, ops);
      layer.index_sums =
          sums_at(cache->base_ + at.index_sums, Compressor::width(hp.index_dim, ratio));
    }
    cache->layers_.push_back(layer);
  }
  return cache;
}

std::vector<std::span<std::byte>> SessionCache::held() const {
  std::vector<std::span<std::byte>> held;
  for (const Part& part : parts_) {
    std::uint64_t rows = part.rows;
    if (part.positions_per_row != 0)
      rows = std::min<std::uint64_t>(rows, position / part.positions_per_row);
    if (rows > 0) held.emplace_back(base_ + part.begin, rows * part.row_bytes);
  }
  return held;
}

SessionCache::~SessionCache() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

}  // namespace ds4
