#include "tests/agent/descriptor_holder.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <sstream>

namespace ds4::test {
namespace {

constexpr std::size_t kMaxDescriptors = 64;  // of one message

std::vector<UniqueFd> descriptors_in(msghdr& message) {
  std::vector<UniqueFd> out;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr;
       part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      out.emplace_back(fd);
    }
  }
  return out;
}

}  // namespace

DescriptorHolder::DescriptorHolder(const std::string& path)
    : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const timeval patience{0, 20'000};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  thread_ = std::thread([this] { listen(); });
}

DescriptorHolder::~DescriptorHolder() {
  stop_ = true;
  thread_.join();
}

void DescriptorHolder::listen() {
  while (!stop_) {
    char text[4096];
    alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
    iovec data{text, sizeof(text)};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t n = ::recvmsg(socket_.get(), &message, MSG_CMSG_CLOEXEC);
    if (n <= 0) continue;
    obey(std::string(text, static_cast<std::size_t>(n)), descriptors_in(message));
  }
}

void DescriptorHolder::obey(const std::string& text, std::vector<UniqueFd> descriptors) {
  const std::lock_guard lock(mutex_);
  std::string name = "stored";
  bool store = false, remove = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("FDNAME=")) name = line.substr(7);
    store = store || line == "FDSTORE=1";
    remove = remove || line == "FDSTOREREMOVE=1";
  }
  if (remove) kept_.erase(name);
  if (!store) return;
  for (UniqueFd& fd : descriptors) kept_.emplace(name, std::move(fd));
}

void DescriptorHolder::drop_all() {
  const std::lock_guard lock(mutex_);
  kept_.clear();
}

std::vector<std::pair<std::string, int>> DescriptorHolder::kept() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::pair<std::string, int>> out;
  for (const auto& [name, fd] : kept_) out.emplace_back(name, fd.get());
  return out;
}

std::vector<std::string> DescriptorHolder::names() const {
  std::vector<std::string> out;
  for (const auto& [name, fd] : kept()) out.push_back(name.substr(name.rfind('.') + 1));
  return out;
}

}  // namespace ds4::test
