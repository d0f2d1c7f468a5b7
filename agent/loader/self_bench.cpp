#include "agent/loader/self_bench.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace ds4::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr SessionId kBenchSession = 1;
constexpr std::uint32_t kMostTokens = 64;
constexpr std::uint32_t kPrefills = 3;
constexpr std::uint32_t kContext = kMostTokens + kPrefills * kBenchRows;

/// The same in every run, and different from row to row, so that rows go to different experts.
float noise(std::uint64_t i) {
  return static_cast<float>((i * 2654435761U >> 8) % 2001) / 1000.0F - 1.0F;
}

class Bench {
 public:
  explicit Bench(Slice& slice)
      : slice_(slice),
        floats_per_row_(std::size_t{slice.params().n_streams} * slice.params().n_embd) {
    const std::size_t floats = kBenchRows * floats_per_row_;
    for (std::size_t i = 0; i < floats; ++i) in_.push_back(noise(i));
    out_.resize(floats);
    for (std::uint32_t i = 0; i < kContext; ++i) {
      tokens_.push_back(static_cast<std::int32_t>(i * 37 % slice.params().n_vocab));
    }
  }

  Result<void> open() { return slice_.open_session(kBenchSession, kContext); }
  void close() { slice_.close_session(kBenchSession); }
  std::uint32_t position() const { return position_; }

  Result<Clock::duration> run(std::uint32_t rows) {
    const Segment segment{kBenchSession, position_, std::span(tokens_).subspan(position_, rows),
                          LogitsWanted::kNone};
    SliceInput input{std::span(&segment, 1), {}};
    const std::size_t first = position_ % kBenchRows;  // another row's values each time
    if (!slice_.range().has_embedding()) {
      const std::size_t from = rows == 1 ? first * floats_per_row_ : 0;
      input.streams = std::span(in_).subspan(from, rows * floats_per_row_);
    }
    SliceOutput output;
    output.streams = std::span(out_).first(rows * floats_per_row_);
    const auto start = Clock::now();
    DS4_TRY(slice_.forward(input, output));
    position_ += rows;
    return Clock::now() - start;
  }

 private:
  Slice& slice_;
  const std::size_t floats_per_row_;
  std::vector<float> in_;
  std::vector<float> out_;
  std::vector<std::int32_t> tokens_;
  std::uint32_t position_ = 0;
};

/// Shortest of up to `most` passes of `rows` rows; the first, which finds everything cold, counts
/// only if it is the only one.
Result<std::chrono::duration<double>> best_of(Bench& bench, std::uint32_t rows, std::uint32_t most,
                                              Clock::duration budget) {
  DS4_ASSIGN(Clock::duration best, bench.run(rows));
  Clock::duration spent = best;
  for (std::uint32_t i = 1; i < most && spent < budget; ++i) {
    DS4_ASSIGN(const Clock::duration took, bench.run(rows));
    spent += took;
    best = i == 1 ? took : std::min(best, took);
  }
  return best;
}

std::uint64_t per_second(std::uint64_t amount, std::chrono::duration<double> time) {
  return static_cast<std::uint64_t>(static_cast<double>(amount) / std::max(1e-9, time.count()));
}

}  // namespace

Result<LayerTimes> time_layers(Slice& slice, std::chrono::milliseconds budget) {
  Bench bench(slice);
  DS4_TRY(bench.open());
  const auto measured = [&]() -> Result<LayerTimes> {
    LayerTimes times;
    DS4_ASSIGN(times.token, best_of(bench, 1, kMostTokens, budget / 2));
    DS4_ASSIGN(times.row, best_of(bench, kBenchRows, kPrefills, budget / 2));
    times.row /= kBenchRows;
    return times;
  }();
  bench.close();
  return measured;
}

wire::SpeedRate rate_of(const LayerTimes& times, const wire::LayerLoad& load) {
  return {load.kind, per_second(load.decode_bytes, times.token),
          per_second(load.row_macs, times.row)};
}

wire::SpeedRate overall_rate(std::vector<wire::SpeedRate> rates) {
  wire::SpeedRate overall;
  if (rates.empty()) return overall;
  const auto middle = [&](std::uint64_t wire::SpeedRate::*rate) {
    std::sort(rates.begin(), rates.end(),
              [&](const auto& a, const auto& b) { return a.*rate < b.*rate; });
    return rates[rates.size() / 2].*rate;
  };
  overall.decode_bytes_per_s = middle(&wire::SpeedRate::decode_bytes_per_s);
  overall.row_macs_per_s = middle(&wire::SpeedRate::row_macs_per_s);
  return overall;
}

}  // namespace ds4::agent
