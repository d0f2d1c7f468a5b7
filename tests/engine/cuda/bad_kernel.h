#pragma once

namespace ds4::test {

/// Starts a kernel that writes to an address which is not there. From then on every call of this
/// process to the current device fails.
void lose_device();

}  // namespace ds4::test
