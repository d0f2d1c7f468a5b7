#pragma once
#include <cstdint>
#include <optional>
#include <string_view>

namespace ds4::agent {

/// The id of a control request that decode_request() refused, so that its sender can be told why.
std::optional<std::uint64_t> read_request_id(std::string_view json);

}  // namespace ds4::agent
