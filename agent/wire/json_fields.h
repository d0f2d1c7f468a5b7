#pragma once
// Internal to agent/wire: reading hostile JSON. Parsing bounds size and nesting; Fields reads typed
// members of one object and keeps the first error, so that a decoder reads as a list of its fields.
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace ds4::wire {

using Json = nlohmann::ordered_json;  // what we write: keys in the order we chose
using ParsedJson = nlohmann::json;    // what we read: not quadratic in a hostile number of keys

/// Parses an object of at most kMaxControlBytes and 8 levels. Errors: kCorrupt.
Result<ParsedJson> parse_object(std::string_view text);

/// Compact for indent < 0; bytes that are not UTF-8 become U+FFFD.
std::string dump(const Json& json, int indent = -1);

class Fields {
 public:
  /// `where` names the object in errors ("status.cover"). Both references outlive this.
  Fields(const ParsedJson& object, std::string where, std::optional<Error>& error)
      : object_(object), where_(std::move(where)), error_(error) {}

  void u64(const char* key, std::uint64_t& out);
  void boolean(const char* key, bool& out);
  /// At most kMaxNameBytes, no control characters.
  void name(const char* key, std::string& out);
  /// Cut at kMaxTextBytes; control characters become spaces, so that a peer's sentence can neither
  /// break a log line nor drive a terminal.
  void text(const char* key, std::string& out);
  void object(const char* key, const std::function<void(Fields&)>& read);
  bool has(const char* key) const;  // and is not null
  /// Every element is an object.
  void array(const char* key, std::size_t max, const std::function<void(Fields&)>& read);
  void reject(const char* key, const std::string& expected);

 private:
  const ParsedJson* member(const char* key);

  const ParsedJson& object_;
  std::string where_;
  std::optional<Error>& error_;
};

}  // namespace ds4::wire
