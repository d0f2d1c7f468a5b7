#include "agent/wire/json_fields.h"

#include <fmt/format.h>

#include "agent/wire/control.h"
#include "agent/wire/peer_text.h"

namespace ds4::wire {
namespace {

constexpr int kMaxNesting = 8;

/// The deepest nesting of brackets outside strings, stopping past the limit: the parser itself must
/// not build a tree that only a hostile peer would send.
bool nests_too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxNesting) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Result<ParsedJson> parse_object(std::string_view text) {
  if (text.size() > kMaxControlBytes) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("control message of {} bytes; at most {} are taken", text.size(),
                            kMaxControlBytes));
  }
  if (nests_too_deep(text)) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("control message nests deeper than {} levels", kMaxNesting));
  }
  ParsedJson json = ParsedJson::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return fail(ErrorCode::kCorrupt, "control message is not JSON");
  if (!json.is_object()) return fail(ErrorCode::kCorrupt, "control message is not a JSON object");
  return json;
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

void Fields::reject(const char* key, const std::string& expected) {
  if (error_) return;
  error_ = Error{ErrorCode::kCorrupt,
                 fmt::format("control message: {}.{} must be {}", where_, key, expected)};
}

const ParsedJson* Fields::member(const char* key) {
  if (error_) return nullptr;
  const auto found = object_.find(key);
  if (found == object_.end()) {
    error_ =
        Error{ErrorCode::kCorrupt, fmt::format("control message: {}.{} is missing", where_, key)};
    return nullptr;
  }
  return &*found;
}

void Fields::u64(const char* key, std::uint64_t& out) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_number_unsigned()) return reject(key, "an unsigned 64-bit integer");
  out = value->get<std::uint64_t>();
}

void Fields::boolean(const char* key, bool& out) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_boolean()) return reject(key, "true or false");
  out = value->get<bool>();
}

void Fields::name(const char* key, std::string& out) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_string()) return reject(key, "a string");
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > kMaxNameBytes) {
    return reject(key, fmt::format("at most {} bytes long, not {}", kMaxNameBytes, text.size()));
  }
  if (has_control_characters(text)) return reject(key, "free of control characters");
  out = text;
}

void Fields::text(const char* key, std::string& out) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_string()) return reject(key, "a string");
  out = cleaned_text(value->get_ref<const std::string&>(), kMaxTextBytes);
}

void Fields::object(const char* key, const std::function<void(Fields&)>& read) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_object()) return reject(key, "an object");
  Fields inner(*value, fmt::format("{}.{}", where_, key), error_);
  read(inner);
}

bool Fields::has(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

void Fields::array(const char* key, std::size_t max, const std::function<void(Fields&)>& read) {
  const ParsedJson* value = member(key);
  if (value == nullptr) return;
  if (!value->is_array()) return reject(key, "an array");
  if (value->size() > max) {
    return reject(key, fmt::format("an array of at most {} elements, not {}", max, value->size()));
  }
  for (const ParsedJson& element : *value) {
    if (error_) return;
    if (!element.is_object()) return reject(key, "an array of objects");
    Fields inner(element, fmt::format("{}.{}", where_, key), error_);
    read(inner);
  }
}

}  // namespace ds4::wire
