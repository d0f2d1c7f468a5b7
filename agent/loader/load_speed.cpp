#include "agent/loader/load_speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace ds4::agent {
namespace {

std::int64_t now_ns() {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

double gib(std::uint64_t bytes) {
  return static_cast<double>(bytes) / (1ull << 30);
}

}  // namespace

std::uint64_t seconds_left(std::uint64_t loaded_bytes, std::uint64_t left_bytes, double seconds) {
  if (loaded_bytes == 0 || left_bytes == 0 || !(seconds > 0)) return 0;
  const double left = static_cast<double>(left_bytes) / static_cast<double>(loaded_bytes) * seconds;
  return static_cast<std::uint64_t>(std::ceil(std::min(left, 1e9)));
}

std::string describe(const LoadFigures& figures) {
  const double seconds = std::chrono::duration<double>(figures.took).count();
  std::string text = fmt::format("{:.2f} GiB read in {:.2f} s", gib(figures.read_bytes), seconds);
  if (figures.read_bytes > 0 && seconds > 0) {
    text += fmt::format(" ({:.2f} GB/s)", static_cast<double>(figures.read_bytes) / 1e9 / seconds);
  }
  if (figures.kept_bytes > 0) {
    text += fmt::format(", {:.2f} GiB were resident already", gib(figures.kept_bytes));
  }
  if (figures.adopted_bytes > 0) {
    text += fmt::format(", {:.2f} GiB had been left in memory by the agent before",
                        gib(figures.adopted_bytes));
  }
  return text;
}

void LoadSpeed::begin() {
  began_ns_ = now_ns();
  done_ = 0;
  total_ = 0;
  counted_ = false;
}

void LoadSpeed::count(std::uint64_t bytes_done, std::uint64_t bytes_total) {
  if (!counted_.exchange(true)) first_ = bytes_done;
  total_ = bytes_total;
  done_ = bytes_done;
}

wire::LoadProgress LoadSpeed::progress() const {
  wire::LoadProgress progress;
  progress.bytes_done = done_;
  progress.bytes_total = total_;
  const double seconds = static_cast<double>(now_ns() - began_ns_) / 1e9;
  const std::uint64_t loaded =
      progress.bytes_done - std::min<std::uint64_t>(progress.bytes_done, first_);
  progress.seconds_left = seconds_left(
      loaded, progress.bytes_total - std::min(progress.bytes_done, progress.bytes_total), seconds);
  return progress;
}

}  // namespace ds4::agent
