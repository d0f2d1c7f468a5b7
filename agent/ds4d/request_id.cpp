#include "agent/ds4d/request_id.h"

#include "agent/wire/json_fields.h"

namespace ds4::agent {

std::optional<std::uint64_t> read_request_id(std::string_view json) {
  const auto object = wire::parse_object(json);
  if (!object) return std::nullopt;
  std::optional<Error> error;
  std::uint64_t id = 0;
  wire::Fields(*object, "request", error).u64("id", id);
  if (error) return std::nullopt;
  return id;
}

}  // namespace ds4::agent
