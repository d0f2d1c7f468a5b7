// clients_chaos: the chaos test at any size.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "tests/ipc/clients_chaos.h"

namespace {

using ds4::test::ChaosPlan;
using ds4::test::ChaosReport;
using ds4::test::Holdings;

nlohmann::json to_json(const std::vector<Holdings>& agents) {
  auto list = nlohmann::json::array();
  for (const Holdings& holds : agents)
    list.push_back({{"descriptors", holds.descriptors},
                    {"regions", holds.regions},
                    {"shmem_kib", holds.shmem_kib},
                    {"anon_kib", holds.anon_kib},
                    {"sessions", holds.sessions},
                    {"kv_bytes", holds.kv_bytes}});
  return list;
}

nlohmann::json to_json(const ChaosPlan& plan, const ChaosReport& report) {
  auto after = nlohmann::json::array();
  for (const auto& agents : report.after) after.push_back(to_json(agents));
  return {{"clients", plan.clients},
          {"rounds", plan.rounds},
          {"agents", plan.agents},
          {"kills", report.kills},
          {"kills_before_first_token", report.kills_before_first_token},
          {"kills_mid_stream", report.kills_mid_stream},
          {"kills_after_last_token", report.kills_after_last_token},
          {"streams", report.streams},
          {"tokens", report.tokens},
          {"busy_retries", report.busy_retries},
          {"faults", report.faults},
          {"before", to_json(report.before)},
          {"after", after},
          {"quiet_s", report.quiet_s},
          {"chaos_s", report.chaos_s}};
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Programs that generate at once, some of which are killed: see clients_chaos.h");
  ChaosPlan plan;
  bool json = false;
  app.add_option("--clients", plan.clients, "At once")->capture_default_str();
  app.add_option("--kills", plan.kills, "In each round")->capture_default_str();
  app.add_option("--rounds", plan.rounds)->capture_default_str();
  app.add_option("--agents", plan.agents)->check(CLI::Range(1, 2))->capture_default_str();
  app.add_option("--tokens", plan.tokens, "Of one answer")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--seed", plan.seed, "Of victims and moments")->capture_default_str();
  app.add_flag("--json", json, "The whole report");
  CLI11_PARSE(app, argc, argv);

  ::testing::InitGoogleTest();  // the agents' helpers report their failures through it
  const ChaosReport report = run_chaos(plan);
  if (json) {
    fmt::print("{}\n", to_json(plan, report).dump(2));
  } else {
    fmt::print("{} kills ({} mid-stream), {} whole streams, {} tokens in {:.1f} s: {}\n",
               report.kills, report.kills_mid_stream, report.streams, report.tokens, report.chaos_s,
               report.faults.empty() ? "all is well" : "FAULTS");
    for (const std::string& fault : report.faults) fmt::print("{}\n", fault);
  }
  const bool failed = ::testing::UnitTest::GetInstance()->Failed();
  return report.faults.empty() && !failed ? 0 : 1;
}
