#include <fmt/format.h>

#include "agent/state/ledger_file.h"
#include "agent/wire/json_fields.h"
#include "agent/wire/status_json.h"

namespace ds4::agent {
namespace {

constexpr std::uint64_t kLedgerVersion = 1;

}  // namespace

std::string encode_ledger(const Ledger& ledger) {
  wire::Json json = {{"version", kLedgerVersion}, {"highest_epoch", ledger.highest_epoch}};
  if (ledger.assignment) {
    const Assignment& assignment = *ledger.assignment;
    json["assignment"] = {{"epoch", assignment.epoch},
                          {"fingerprint", assignment.fingerprint},
                          {"index", assignment.index},
                          {"route", wire::to_json(assignment.route)}};
  }
  return wire::dump(json, 2) + "\n";
}

Result<Ledger> decode_ledger(std::string_view text) {
  DS4_ASSIGN(const wire::ParsedJson json, wire::parse_object(text));
  std::optional<Error> error;
  wire::Fields fields(json, "route.json", error);
  Ledger ledger;
  std::uint64_t version = 0;
  fields.u64("version", version);
  if (!error && version != kLedgerVersion) {
    return fail(
        ErrorCode::kUnsupported,
        fmt::format("it has version {}, this ds4d knows version {}", version, kLedgerVersion));
  }
  fields.u64("highest_epoch", ledger.highest_epoch);
  if (fields.has("assignment")) {
    std::uint64_t index = 0;
    Assignment& assignment = ledger.assignment.emplace();
    fields.object("assignment", [&](wire::Fields& inner) {
      inner.u64("epoch", assignment.epoch);
      inner.name("fingerprint", assignment.fingerprint);
      inner.u64("index", index);
      wire::read_route(inner, assignment.route);
    });
    if (!error && index >= assignment.route.size()) {
      return fail(ErrorCode::kCorrupt, "its index names no stage of its route");
    }
    assignment.index = static_cast<std::uint32_t>(index);
  }
  if (error) return tl::unexpected<Error>(std::move(*error));
  return ledger;
}

}  // namespace ds4::agent
