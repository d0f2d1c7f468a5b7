#include "ipc/packet.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>

#include "tests/ipc/fake_agent.h"

namespace ds4::ipc {
namespace {

struct Pair {
  Pair() {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    a.reset(fds[0]);
    b.reset(fds[1]);
  }
  UniqueFd a;
  UniqueFd b;
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Packet, CarriesBytesAndDescriptors) {
  Pair pair;
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::array<int, 2> fds = {null.get(), null.get()};
  ASSERT_TRUE(send_packet(pair.a.get(), bytes_of("hello"), fds));
  std::array<std::byte, 16> buffer;
  const auto packet = receive_packet(pair.b.get(), buffer, 4);
  ASSERT_TRUE(packet && *packet);
  EXPECT_EQ((*packet)->bytes, 5U);
  EXPECT_FALSE((*packet)->truncated);
  ASSERT_EQ((*packet)->fds.size(), 2U);
  EXPECT_NE(::fcntl((*packet)->fds[1].get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(Packet, UnwantedDescriptorsNeverStay) {
  Pair pair;
  const UniqueFd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const std::array<int, 4> fds = {null.get(), null.get(), null.get(), null.get()};
  const std::size_t before = testing::open_descriptors();
  std::array<std::byte, 16> buffer;
  for (const std::size_t wanted : {0U, 1U}) {
    ASSERT_TRUE(send_packet(pair.a.get(), bytes_of("x"), fds));
    const auto packet = receive_packet(pair.b.get(), buffer, wanted);
    ASSERT_TRUE(packet && *packet);
    EXPECT_EQ((*packet)->fds.size(), wanted);
  }
  EXPECT_EQ(testing::open_descriptors(), before);
}

TEST(Packet, SaysNothingYetHungUpAndTooLong) {
  Pair pair;
  std::array<std::byte, 4> buffer;
  auto packet = receive_packet(pair.b.get(), buffer, 0);
  ASSERT_TRUE(packet);
  EXPECT_FALSE(*packet);
  ASSERT_TRUE(send_packet(pair.a.get(), bytes_of("longer than four")));
  packet = receive_packet(pair.b.get(), buffer, 0);
  ASSERT_TRUE(packet && *packet);
  EXPECT_TRUE((*packet)->truncated);
  pair.a.reset();
  packet = receive_packet(pair.b.get(), buffer, 0);
  ASSERT_TRUE(packet && *packet);
  EXPECT_EQ((*packet)->bytes, 0U);
  EXPECT_FALSE(send_packet(pair.b.get(), bytes_of("into the void"))) << "and no SIGPIPE";
}

TEST(Packet, LastWordsAreHeardEvenIfOursWereNotRead) {
  Pair pair;
  ASSERT_TRUE(send_packet(pair.b.get(), bytes_of("never read")));
  ASSERT_TRUE(send_packet(pair.a.get(), bytes_of("bye")));
  pair.a.reset();  // with our packet unread: the kernel reports a reset first
  std::array<std::byte, 16> buffer;
  const auto packet = receive_packet(pair.b.get(), buffer, 0);
  ASSERT_TRUE(packet && *packet);
  EXPECT_EQ((*packet)->bytes, 3U);
}

TEST(PacketText, FieldsAreCutBetweenCharactersAndAlwaysTerminated) {
  std::array<char, 8> field;
  field.fill('#');
  put_text(field, "abcdef\xc3\xa4");  // 8 bytes, and the last character has two
  EXPECT_EQ(text_of(field), "abcdef");
  EXPECT_EQ(field[7], '\0');
  put_text(field, "");
  EXPECT_EQ(text_of(field), "");
}

TEST(PacketText, ForeignFieldsNeedNoTerminatorAndLoseControlCharacters) {
  const std::array<char, 4> field = {'a', '\x1b', '\n', 'z'};
  EXPECT_EQ(text_of(field), "a??z");
}

TEST(PacketText, CutsWholeCharacters) {
  EXPECT_EQ(cut_utf8("\xe2\x82\xac", 2), "");
  EXPECT_EQ(cut_utf8("a\xe2\x82\xac", 4), "a\xe2\x82\xac");
  EXPECT_EQ(cut_utf8("a\xe2\x82\xac", 3), "a");
}

}  // namespace
}  // namespace ds4::ipc
