#include "ctl/ds4ctl/proposal.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "agent/plan/layer_loads.h"
#include "ctl/common/terminal.h"
#include "ctl/ds4ctl/gather.h"
#include "ctl/ds4ctl/link_survey.h"
#include "engine/gguf/model_file.h"

namespace ds4::ctl {
namespace {

/// An agent measures within about a second, behind whatever its loader does: so many times the
/// usual patience.
constexpr int kMeasurePatience = 6;

/// The node's offer for another file than its own: what the file's layers would take there.
Result<void> offer_other_model(wire::NodeOffer& offer, const ModelFile& file,
                               const HyperParams& params) {
  plan::LoadSettings settings;
  DS4_ASSIGN(settings.graph, parse_graph(offer.graph));
  settings.context = static_cast<std::uint32_t>(std::min<std::uint64_t>(offer.context, UINT32_MAX));
  settings.kv_fixed = offer.kv_fixed_bytes > 0;
  settings.page_bytes = std::max<std::uint64_t>(4096, offer.page_bytes);
  DS4_ASSIGN(offer.layers, plan::layer_loads(file.gguf(), params, settings));
  const std::uint64_t rows = std::min<std::uint64_t>(offer.max_rows, UINT32_MAX);
  offer.scratch_bytes = plan::scratch_bytes(params, static_cast<std::uint32_t>(rows));
  offer.stream_row_bytes = plan::stream_row_bytes(params);
  return {};
}

/// Makes every offer one for `path`; who has another file is named.
Result<void> use_model(const std::string& path, Proposal& proposal) {
  DS4_ASSIGN(const auto file, ModelFile::open(path));
  auto params = HyperParams::read(file->gguf());
  if (!params) return fail(std::move(params).error(), path);
  for (std::size_t i = 0; i < proposal.nodes.size(); ++i) {
    if (proposal.statuses[i].fingerprint == file->fingerprint()) continue;
    proposal.without_model.push_back(proposal.statuses[i].name);
    DS4_TRY(offer_other_model(proposal.input.nodes[i].offer, *file, *params));
  }
  return {};
}

Result<std::vector<wire::NodeOffer>> ask_offers(ControlTransport& transport, Proposal& proposal,
                                                bool measure, std::chrono::milliseconds timeout) {
  std::vector<Result<wire::NodeOffer>> offers;
  auto replies =
      ask_all(transport, proposal.nodes, wire::OfferRequest{measure}, kMeasurePatience * timeout);
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (!replies[i]) {
      offers.push_back(tl::unexpected<Error>(std::move(replies[i]).error()));
    } else if (!replies[i]->offer || !replies[i]->status) {
      offers.push_back(fail(ErrorCode::kCorrupt, fmt::format("node {} answers without its offer",
                                                             proposal.nodes[i].name)));
    } else {
      offers.push_back(std::move(*replies[i]->offer));
      proposal.statuses[i] = std::move(*replies[i]->status);
    }
  }
  return all_or_error(std::move(offers));
}

}  // namespace

std::vector<Wish> Proposal::wishes() const {
  std::vector<Wish> wishes;
  for (const PlannedStage& stage : plan.stages) {
    wishes.push_back({nodes[stage.node], stage.range.to_string()});
  }
  return wishes;
}

Result<Proposal> propose(const Access& access, const ProposalOptions& options,
                         std::chrono::milliseconds timeout) {
  Proposal proposal;
  DS4_ASSIGN(proposal.nodes, chosen_nodes(access.cluster, options.names));
  DS4_ASSIGN(const std::unique_ptr<ControlTransport> transport,
             connect_nodes(proposal.nodes, access.identity));
  // First, because who is down should be named soon.
  DS4_ASSIGN(proposal.statuses, all_or_error(query_statuses(*transport, proposal.nodes, timeout)));
  DS4_TRY(check_agents(proposal.nodes, proposal.statuses));
  if (options.model.empty()) DS4_TRY(check_same_model(proposal.statuses));
  DS4_ASSIGN(std::vector<wire::NodeOffer> offers,
             ask_offers(*transport, proposal, options.measure, timeout));
  for (std::size_t i = 0; i < offers.size(); ++i) {
    proposal.input.nodes.push_back({proposal.statuses[i].name, std::move(offers[i])});
  }
  if (!options.model.empty()) DS4_TRY(use_model(options.model, proposal));

  std::vector<std::string> notes;
  if (proposal.nodes.size() > 1) {
    LinkSurvey survey = survey_all(*transport, proposal.nodes, timeout);
    if (InterruptGuard::interrupted()) return fail(ErrorCode::kCancelled, "interrupted");
    proposal.input.links = std::move(survey.links);
    notes = std::move(survey.notes);
  }
  DS4_ASSIGN(proposal.plan, plan_route(proposal.input));
  for (const std::string& name : proposal.without_model) {
    notes.push_back(
        fmt::format("{} does not have {}: copy it there before you assign", name, options.model));
  }
  proposal.plan.notes.insert(proposal.plan.notes.end(), notes.begin(), notes.end());
  return proposal;
}

}  // namespace ds4::ctl
