#include "ctl/ds4ctl/cluster.h"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cctype>
#include <charconv>

#include "agent/wire/control.h"
#include "ctl/common/read_file.h"

namespace ds4::ctl {
namespace {

tl::unexpected<Error> corrupt(const std::string& path, std::uint32_t line, std::string_view what) {
  return fail(ErrorCode::kCorrupt, fmt::format("{}:{}: {}", path, line, what));
}

std::uint32_t line_of(const toml::node& node) {
  return node.source().begin.line;
}

Result<void> check_name(std::string_view name) {
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.');
  });
  if (name.empty() || name.size() > wire::kMaxNameBytes || !characters_ok) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("a node's name has 1 to {} letters, digits, '-', '_' and '.'",
                            wire::kMaxNameBytes));
  }
  return {};
}

Result<void> check_keys(const toml::table& table, const std::string& path) {
  for (const auto& [key, value] : table) {
    if (key.str() == "nodes" || key.str() == "insecure") continue;
    return corrupt(path, key.source().begin.line,
                   fmt::format("unknown key '{}'; only the table [nodes] and the setting insecure "
                               "belong here",
                               key.str()));
  }
  return {};
}

Result<bool> read_insecure(const toml::table& table, const std::string& path) {
  const toml::node* node = table.get("insecure");
  if (node == nullptr) return false;
  const auto value = node->value_exact<bool>();
  if (!value) return corrupt(path, line_of(*node), "insecure must be true or false");
  return *value;
}

/// `address = "...", key = "..."` of a node.
Result<Node> read_node_table(const std::string& name, const toml::table& table,
                             const std::string& path) {
  Node node{name, {}};
  for (const auto& [key, value] : table) {
    const auto* text = value.as_string();
    const std::uint32_t line = line_of(value);
    if (key.str() != "address" && key.str() != "key") {
      return corrupt(path, line,
                     fmt::format("nodes.{}: unknown key '{}'; a node has an address and a key",
                                 name, key.str()));
    }
    if (text == nullptr) {
      return corrupt(path, line, fmt::format("nodes.{}.{} must be a string", name, key.str()));
    }
    if (key.str() == "address") {
      node.address = text->get();
      continue;
    }
    const auto parsed = keys::parse_public_key(text->get());
    if (!parsed || parsed->role != keys::KeyRole::kNode) {
      return corrupt(
          path, line,
          fmt::format("nodes.{}.key must be the node: key that `ds4ctl keys show` prints "
                      "on that machine",
                      name));
    }
    node.key = *parsed;
  }
  return node;
}

Result<Node> read_node(const toml::key& key, const toml::node& value, const std::string& path) {
  const std::string name(key.str());
  if (auto named = check_name(name); !named) {
    return corrupt(path, key.source().begin.line,
                   fmt::format("nodes.'{}': {}", name, named.error().message));
  }
  Node node{name, {}};
  if (const auto* address = value.as_string()) {
    node.address = address->get();
  } else if (const auto* table = value.as_table()) {
    DS4_ASSIGN(node, read_node_table(name, *table, path));
  } else {
    return corrupt(path, line_of(value),
                   fmt::format("nodes.{0} must be an address, \"tcp://host:port\", or {{ address = "
                               "\"...\", key = \"node:...\" }}",
                               name));
  }
  if (auto valid = check_address(node.address); !valid) {
    return corrupt(path, line_of(value), fmt::format("nodes.{}: {}", name, valid.error().message));
  }
  return node;
}

Result<Cluster> read_cluster(const toml::table& table, const std::string& path) {
  DS4_TRY(check_keys(table, path));
  const toml::node* section = table.get("nodes");
  if (section == nullptr) {
    return corrupt(path, 1, "there is no table [nodes]; it holds lines name = \"tcp://host:port\"");
  }
  const toml::table* nodes = section->as_table();
  if (nodes == nullptr) {
    return corrupt(path, line_of(*section), "'nodes' must be a table: [nodes]");
  }
  if (nodes->empty()) {
    return corrupt(path, line_of(*section), "[nodes] names no node: name = \"tcp://host:port\"");
  }
  std::vector<std::pair<toml::source_position, Node>> found;
  for (const auto& [key, value] : *nodes) {
    DS4_ASSIGN(Node node, read_node(key, value, path));
    for (const auto& [where, other] : found) {
      if (other.address == node.address) {
        return corrupt(path, std::max(line_of(value), where.line),
                       fmt::format("nodes {} and {} have the same address {}", other.name,
                                   node.name, node.address));
      }
      if (node.key && other.key == node.key) {
        return corrupt(path, std::max(line_of(value), where.line),
                       fmt::format("nodes {} and {} have the same key", other.name, node.name));
      }
    }
    found.emplace_back(key.source().begin, std::move(node));
  }
  if (found.size() > wire::kMaxStages) {
    return corrupt(
        path, line_of(*section),
        fmt::format("{} nodes; at most {} are supported", found.size(), wire::kMaxStages));
  }
  // The library keeps keys sorted by name; people expect their own order.
  std::sort(found.begin(), found.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });
  Cluster cluster{{}, path};
  DS4_ASSIGN(cluster.insecure, read_insecure(table, path));
  for (auto& [where, node] : found) cluster.nodes.push_back(std::move(node));
  return cluster;
}

}  // namespace

Result<void> check_address(std::string_view address) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::kInvalidArgument,
                fmt::format("address '{}' {}; write \"tcp://host:port\"", address, why));
  };
  constexpr std::string_view kScheme = "tcp://";
  if (address.size() > wire::kMaxNameBytes) return bad("is too long");
  if (!address.starts_with(kScheme)) return bad("does not begin with tcp://");
  const std::string_view rest = address.substr(kScheme.size());
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return bad("has no port");
  const std::string_view host = rest.substr(0, colon);
  const std::string_view port = rest.substr(colon + 1);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (host.empty() || host == "*" || host == "[]") return bad("has no host");
  if (host.find(':') != std::string_view::npos && !bracketed) {
    return bad("has an IPv6 host without brackets");
  }
  for (const char c : host) {
    if (c <= ' ' || c > '~' || c == '/' || c == ';' || c == '"') return bad("has a malformed host");
  }
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  if (error != std::errc() || end != port.data() + port.size() || number == 0 || number > 65535) {
    return bad("has a port that is not 1 to 65535");
  }
  return {};
}

Result<Node> Cluster::find(std::string_view name) const {
  std::string known;
  for (const Node& node : nodes) {
    if (node.name == name) return node;
    known += known.empty() ? node.name : ", " + node.name;
  }
  return fail(ErrorCode::kInvalidArgument,
              fmt::format("node '{}' is not in {}; it has: {}", name, source, known));
}

Result<std::vector<Node>> chosen_nodes(const Cluster& cluster,
                                       const std::vector<std::string>& names) {
  if (names.empty()) return cluster.nodes;
  std::vector<Node> nodes;
  for (const std::string& name : names) {
    DS4_ASSIGN(Node node, cluster.find(name));
    if (std::find(nodes.begin(), nodes.end(), node) != nodes.end()) {
      return fail(ErrorCode::kInvalidArgument, fmt::format("node {} is named twice", name));
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

Result<Cluster> parse_cluster(std::string_view text, const std::string& path) {
  if (text.size() > kMaxClusterBytes) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: {} bytes; a cluster file has at most {}",
                                                 path, text.size(), kMaxClusterBytes));
  }
  try {
    const toml::table table = toml::parse(text, path);
    return read_cluster(table, path);
  } catch (const toml::parse_error& error) {
    return corrupt(path, error.source().begin.line, error.description());
  }
}

Result<Cluster> load_cluster(const std::string& path) {
  const std::string file = path.empty() ? kDefaultClusterFile : path;
  const auto text = read_file(file, kMaxClusterBytes + 1);
  if (text) return parse_cluster(*text, file);
  if (path.empty() && text.error().code == ErrorCode::kNotFound) {
    return Cluster{{Node{kLocalNodeName, kLocalNodeAddress, true}},
                   fmt::format("the default cluster (there is no {})", kDefaultClusterFile)};
  }
  return fail(text.error(), "cluster file");
}

}  // namespace ds4::ctl
