#pragma once
// Looks at nodes again and again, each at its own pace, so that one that does not answer holds up
// nobody's picture of the others. Pure: requests come out, replies go in, with the time.
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "ctl/ds4ctl/assign_machine.h"
#include "ctl/ds4ctl/status_table.h"

namespace ds4::ctl {

class NodeWatch {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  struct Pace {
    std::chrono::milliseconds every{1000};
    std::chrono::milliseconds timeout{3000};  // for an answer
    std::chrono::milliseconds window{5000};   // that rates are made of
  };

  NodeWatch(std::vector<Node> nodes, const Pace& pace);

  /// What is to be asked now.
  std::vector<Outgoing> due(TimePoint now);
  /// Late replies to a request that was given up are ignored.
  void on_reply(std::size_t node, const Result<wire::Reply>& reply, TimePoint now);

  /// In the order of the nodes. What has never answered is an error.
  std::vector<NodeView> now() const;
  /// The same nodes about a window earlier, or as early as they were looked at.
  std::vector<NodeView> before() const;

 private:
  struct Look {
    TimePoint when;
    wire::NodeStatus status;
  };
  struct Watched {
    Node node;
    std::uint64_t asked = 0;  // the request's id; 0: none is under way
    TimePoint asked_at{};
    TimePoint next{};
    std::deque<Look> looks;        // the newest last
    std::optional<Error> trouble;  // since the newest look
  };

  Pace pace_;
  std::vector<Watched> nodes_;
  std::uint64_t last_id_ = 0;
};

}  // namespace ds4::ctl
