#pragma once
// The planner's search, on plain numbers; planner.h says what is looked for and why this is exact.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ds4::ctl {

struct PlanInput;

/// Layers [begin, end) on a node; the output head comes with the last layer.
struct Place {
  std::size_t node = 0;
  std::uint32_t begin = 0;
  std::uint32_t end = 0;
  bool operator==(const Place&) const = default;
};

/// What any stage and any link would cost, by sums that are made once.
class RouteCosts {
 public:
  /// `input` outlives it; every node's speed is known.
  explicit RouteCosts(const PlanInput& input);

  std::size_t nodes() const { return compute_.size(); }
  std::uint32_t blocks() const { return blocks_; }
  /// In NodeOffer::layers.
  std::size_t end_index(std::uint32_t end) const { return end == blocks_ ? end + 1 : end; }

  bool fits(std::size_t node, std::uint32_t begin, std::uint32_t end) const;
  double compute_s(std::size_t node, std::uint32_t begin, std::uint32_t end) const;
  /// What the node would have to make resident anew.
  std::uint64_t load_bytes(std::size_t node, std::uint32_t begin, std::uint32_t end) const;
  /// One row's streams from one node to another, occupying the link.
  double transfer_s(std::size_t from, std::size_t to) const;
  /// The same, until they are there.
  double hop_s(std::size_t from, std::size_t to) const;
  /// A sampled token's way from the last stage to the first.
  double return_s(std::size_t last, std::size_t first) const;

 private:
  const PlanInput& input_;
  std::uint32_t blocks_;
  std::vector<std::vector<double>> compute_;       // by node, up to each layer
  std::vector<std::vector<std::uint64_t>> load_;   // the same
  std::vector<std::vector<std::uint32_t>> reach_;  // by node and first layer: the furthest end
};

struct Found {
  std::vector<Place> route;  // empty: nothing fits
  double slowest_s = 0;
  double token_s = 0;
  std::uint32_t placed = 0;  // layers that find a place at best
};

Found find_route(const RouteCosts& costs);

}  // namespace ds4::ctl
