#include "ctl/ds4ctl/node_watch.h"

#include <fmt/format.h>

namespace ds4::ctl {

NodeWatch::NodeWatch(std::vector<Node> nodes, const Pace& pace) : pace_(pace) {
  for (Node& node : nodes) {
    Watched& watched = nodes_.emplace_back();
    watched.node = std::move(node);
    watched.trouble = Error{ErrorCode::kTimeout, "not heard from yet"};
  }
}

std::vector<Outgoing> NodeWatch::due(TimePoint now) {
  std::vector<Outgoing> outgoing;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    Watched& watched = nodes_[i];
    if (watched.asked != 0 && now - watched.asked_at >= pace_.timeout) {
      watched.asked = 0;
      watched.next = now;
      watched.looks.clear();  // what it does now, nobody knows
      watched.trouble =
          Error{ErrorCode::kTimeout, fmt::format("does not answer at {}", watched.node.address)};
    }
    if (watched.asked != 0 || now < watched.next) continue;
    watched.asked = ++last_id_;
    watched.asked_at = now;
    watched.next = now + pace_.every;
    outgoing.push_back({i, {watched.asked, wire::StatusRequest{.audit = false}}});
  }
  return outgoing;
}

void NodeWatch::on_reply(std::size_t node, const Result<wire::Reply>& reply, TimePoint now) {
  if (node >= nodes_.size()) return;
  Watched& watched = nodes_[node];
  if (watched.asked == 0 || (reply && reply->id != watched.asked)) return;
  watched.asked = 0;
  watched.trouble.reset();
  if (!reply) {
    watched.trouble = reply.error();
  } else if (reply->error) {
    watched.trouble = *reply->error;
  } else if (!reply->status) {
    watched.trouble = Error{ErrorCode::kCorrupt, "answers without its status"};
  } else {
    watched.looks.push_back({now, *reply->status});
    while (watched.looks.size() > 2 && now - watched.looks[1].when >= pace_.window) {
      watched.looks.pop_front();
    }
    return;
  }
  watched.looks.clear();
}

std::vector<NodeView> NodeWatch::now() const {
  std::vector<NodeView> views;
  for (const Watched& watched : nodes_) {
    if (watched.trouble) {
      views.push_back({watched.node, tl::unexpected<Error>(*watched.trouble)});
    } else {
      views.push_back({watched.node, watched.looks.back().status});
    }
  }
  return views;
}

std::vector<NodeView> NodeWatch::before() const {
  std::vector<NodeView> views = now();
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (!nodes_[i].trouble) views[i].status = nodes_[i].looks.front().status;
  }
  return views;
}

}  // namespace ds4::ctl
