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

/// Hands out parts of a mapping, one behind the other.
class Carver {
 public:
  std::uint64_t rows(std::uint64_t count, const RowFormat& format) {
    return take(count * format.row_bytes());
  }
  std::uint64_t sums(std::uint32_t width) { return take(3 * std::uint64_t{width} * sizeof(float)); }
  std::uint64_t end() const { return end_; }

 private:
  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t begin = end_;
    end_ += round_up(bytes, kPartAlign);
    return begin;
  }
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
  plan.ring_rows = std::min(hp.window, context);
  Carver carver;
  for (std::uint32_t index = range.first; index <= range.last; ++index) {
    const std::uint32_t ratio = hp.compress_ratio[index];
    Layer layer;
    layer.raw = carver.rows(plan.ring_rows, plan.kv);
    if (ratio != 0) {
      layer.compressed = carver.rows(context / ratio, plan.kv);
      layer.sums = carver.sums(Compressor::width(hp.head_dim, ratio));
    }
    if (ratio == 4) {
      layer.index = carver.rows(context / ratio, plan.index);
      layer.index_sums = carver.sums(Compressor::width(hp.index_dim, ratio));
    }
    plan.layers.push_back(layer);
  }
  plan.bytes = round_up(carver.end(), static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)));
  return plan;
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
    layer.raw = RowStore(cache->base_ + at.raw, plan.kv, ops);
    if (ratio != 0) {
      layer.compressed = RowStore(cache->base_ + at.compressed, plan.kv, ops);
      layer.sums = sums_at(cache->base_ + at.sums, Compressor::width(hp.head_dim, ratio));
    }
    if (ratio == 4) {
      layer.index = RowStore(cache->base_ + at.index, plan.index, ops);
      layer.index_sums =
          sums_at(cache->base_ + at.index_sums, Compressor::width(hp.index_dim, ratio));
    }
    cache->layers_.push_back(layer);
  }
  return cache;
}

SessionCache::~SessionCache() {
  if (base_ != nullptr) munmap(base_, bytes_);
}

}  // namespace ds4
