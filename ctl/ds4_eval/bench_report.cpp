#include "ctl/ds4_eval/bench_report.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace ds4::eval {
namespace {

using Json = nlohmann::ordered_json;

Json kernels(const KernelTimes& times) {
  Json list = Json::array();
  for (const KernelTime& time : times.all())
    list.push_back({{"kernel", time.name}, {"launches", time.launches}, {"ms", time.ms}});
  return list;
}

}  // namespace

std::string to_json(const Measured& measured) {
  Json json = {{"prefill_tps", measured.prefill_tps},
               {"decode_tps", measured.decode_tps},
               {"decode_bytes_per_token", measured.traffic.weight_bytes},
               {"decode_kv_bytes_per_token", measured.traffic.kv_bytes},
               {"read_bandwidth_bytes_per_s", measured.read_bandwidth},
               {"decode_bandwidth_share", measured.bandwidth_share()},
               {"kv_cache", measured.kv},
               {"prompt", measured.what.prompt},
               {"generate", measured.what.generate},
               {"repeat", measured.repeat},
               {"slices", measured.slices},
               {"device", measured.device}};
  if (measured.threads) json["threads"] = *measured.threads;
  for (const Measured::Further& one : measured.contexts)
    json["contexts"].push_back({{"context", one.what.prompt},
                                {"fill_tps", one.times.prefill_tps(one.what)},
                                {"decode_ms_per_token", one.times.ms_per_pass()},
                                {"decode_bytes_per_token", one.traffic.weight_bytes},
                                {"decode_kv_bytes_per_token", one.traffic.kv_bytes}});
  for (const Measured::Further& one : measured.sessions)
    json["sessions"].push_back({{"sessions", one.what.sessions},
                                {"prefill_tps", one.times.prefill_tps(one.what)},
                                {"decode_tps", one.times.decode_tps(one.what)},
                                {"decode_ms_per_pass", one.times.ms_per_pass()}});
  for (const Measured::Further& one : measured.prefills)
    json["prefills"].push_back(
        {{"prompt", one.what.prompt}, {"prefill_tps", one.times.prefill_tps(one.what)}});
  return json.dump() + "\n";
}

std::string to_text(const Measured& measured) {
  constexpr double kMb = 1e6;
  std::string text = fmt::format(
      "prefill {:.1f} tokens/s ({} tokens), decode {:.1f} tokens/s ({} tokens), median of {} runs, "
      "{}{}\n"
      "decode reads {:.1f} MB of weights and {:.2f} MB of cache per token: {:.0f} % of the {:.1f} "
      "GB/s that memory gives\n"
      "a session's cache: {}\n",
      measured.prefill_tps, measured.what.prompt, measured.decode_tps, measured.what.generate,
      measured.repeat, measured.threads ? fmt::format("{} threads, ", *measured.threads) : "",
      measured.device, static_cast<double>(measured.traffic.weight_bytes) / kMb,
      static_cast<double>(measured.traffic.kv_bytes) / kMb, 100 * measured.bandwidth_share(),
      measured.read_bandwidth / 1e9, measured.kv);
  for (const Measured::Further& one : measured.prefills)
    text += fmt::format("prefill of {} tokens: {:.1f} tokens/s\n", one.what.prompt,
                        one.times.prefill_tps(one.what));
  for (const Measured::Further& one : measured.contexts)
    text += fmt::format("behind {} positions: {:.3f} ms per token (filled at {:.1f} tokens/s)\n",
                        one.what.prompt, one.times.ms_per_pass(), one.times.prefill_tps(one.what));
  for (const Measured::Further& one : measured.sessions)
    text += fmt::format("{} sessions: {:.3f} ms per token of each, {:.1f} tokens/s together\n",
                        one.what.sessions, one.times.ms_per_pass(), one.times.decode_tps(one.what));
  return text;
}

std::string to_json(const Profiled& profiled) {
  return Json{{"prompt", profiled.what.prompt},
              {"generate", profiled.what.generate},
              {"sessions", profiled.what.sessions},
              {"prefill", kernels(profiled.prefill)},
              {"decode", kernels(profiled.decode)}}
             .dump() +
         "\n";
}

std::string to_text(const Profiled& profiled) {
  const Conversations& what = profiled.what;
  return fmt::format(
      "prefill of {} tokens, {} sessions: {:.3f} ms in kernels\n{}"
      "decode, {} passes of {} rows: {:.3f} ms in kernels a pass\n{}"
      "(measured one by one: without it they overlap and take less together)\n",
      what.prompt, what.sessions, profiled.prefill.total_ms(), profiled.prefill.to_text(),
      what.generate, what.sessions, profiled.decode.total_ms() / what.generate,
      profiled.decode.to_text());
}

}  // namespace ds4::eval
