#include "ipc/server/outlet.h"

#include <algorithm>
#include <cstring>

#include "ipc/packet.h"

namespace ds4::ipc {

namespace {

CompletionEntry make_entry(std::uint64_t request_id, Kind kind) {
  CompletionEntry entry;
  entry.request_id = request_id;
  entry.kind = static_cast<std::uint16_t>(kind);
  return entry;
}

constexpr std::uint32_t kPublishEvery = 64;

}  // namespace

bool Outlet::has_space_ordered(std::uint32_t entries) {
  ring_.refresh_ordered();
  return ring_.space(entries) >= entries;
}

void Outlet::token(std::uint64_t request_id, std::int32_t token, std::uint32_t position,
                   float logprob) {
  CompletionEntry entry = make_entry(request_id, Kind::kToken);
  entry.set_body(TokenBody{token, position, logprob, {}});
  push(entry);
}

void Outlet::progress(std::uint64_t request_id, std::uint32_t done, std::uint32_t total) {
  if (!has_room()) return;
  CompletionEntry entry = make_entry(request_id, Kind::kProgress);
  entry.set_body(ProgressBody{done, total, {}});
  push(entry);
}

void Outlet::final(std::uint64_t request_id, Status status, std::string_view sentence,
                   const FinalBody& body) {
  if (is_error(status)) message(request_id, sentence.empty() ? describe(status) : sentence);
  CompletionEntry entry = make_entry(request_id, Kind::kFinal);
  entry.status = static_cast<std::uint16_t>(status);
  entry.set_body(body);
  push(entry);
}

void Outlet::message(std::uint64_t request_id, std::string_view sentence) {
  sentence = cut_utf8(sentence, kMaxMessageBytes);
  while (!sentence.empty()) {
    const std::string_view piece = sentence.substr(0, kMessageFragmentBytes);
    CompletionEntry entry = make_entry(request_id, Kind::kMessage);
    entry.text_bytes = static_cast<std::uint32_t>(piece.size());
    std::memcpy(entry.body.data(), piece.data(), piece.size());
    push(entry);
    sentence.remove_prefix(piece.size());
  }
}

void Outlet::push(const CompletionEntry& entry) {
  if (!queue_.empty() || !ring_.push(entry)) {
    queue_.push_back(entry);
    return;
  }
  if (++unpublished_ < kPublishEvery) return;
  unpublished_ = 0;
  ring_.publish();  // for a client that polls; one that sleeps is woken by the flush
}

void Outlet::drain() {
  if (queue_.empty()) return;
  while (!queue_.empty() && ring_.push(queue_.front())) queue_.pop_front();
  ring_.publish();
}

}  // namespace ds4::ipc
