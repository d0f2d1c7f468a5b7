#pragma once
// What a person sees while nodes load: bars that redraw on a terminal, plain lines elsewhere. The
// texts are pure; ProgressDisplay writes them to stderr.
#include <span>
#include <string>
#include <vector>

#include "ctl/ds4ctl/assign_machine.h"

namespace ds4::ctl {

/// "alpha  0:2  loading  [#######---------]  43 %  8.60 GiB of 20.00 GiB, 12 s left", at most
/// `columns` wide.
std::string progress_bar(const NodeProgress& node, std::size_t columns);

/// A line for every node whose state has changed since `before`, or that has passed another
/// quarter.
std::vector<std::string> progress_lines(std::span<const NodeProgress> before,
                                        std::span<const NodeProgress> now);

class ProgressDisplay {
 public:
  explicit ProgressDisplay(bool terminal) : terminal_(terminal) {}
  void update(const std::vector<NodeProgress>& nodes);

 private:
  void redraw(const std::vector<NodeProgress>& nodes);

  bool terminal_;
  std::size_t drawn_lines_ = 0;
  std::vector<NodeProgress> shown_;
};

}  // namespace ds4::ctl
