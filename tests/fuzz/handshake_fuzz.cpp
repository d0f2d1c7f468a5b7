// The packets of the handshake as anyone may send them: the agent's reading of a hello, the
// library's of a welcome. The first byte chooses.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "ipc/client/dial.h"
#include "ipc/server/handshake.h"

namespace {

using namespace ds4::ipc;

constexpr RegionShape kMost{
    .submission_entries = 256, .completion_entries = 4096, .arena_tokens = 1U << 15};

void judge_as_agent(std::span<const std::byte> packet) {
  const HelloVerdict verdict = judge_hello(packet, kMost);
  if (verdict.refusal) {
    if (verdict.refusal->sentence.empty() || make_refusal(*verdict.refusal).status == 0)
      std::abort();
    return;
  }
  const RegionShape& shape = verdict.shape;
  if (verdict.minor > kMinorVersion || shape.submission_entries > kMost.submission_entries ||
      shape.completion_entries > kMost.completion_entries ||
      shape.arena_tokens > kMost.arena_tokens || !Region::create(shape))
    std::abort();
}

void judge_as_client(std::span<const std::byte> packet, std::size_t fds) {
  const auto welcome = judge_welcome(packet, fds);
  if (!welcome && (welcome.error().status == DS4_OK || welcome.error().sentence.empty()))
    std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto packet = std::as_bytes(std::span(data, size)).subspan(1);
  if (data[0] < 128)
    judge_as_agent(packet);
  else
    judge_as_client(packet, data[0] & 7);
  return 0;
}
