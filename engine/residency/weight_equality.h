#pragma once
// Whether copies of a model's weights are as good as the file that is there now.
//
// A copy that is taken back costs nothing because nothing is read; so that it is the right one is
// known from little. The fingerprint covers the file's size and its whole header. If the file is
// the very one that was copied (device, inode, size, time of the last change), its bytes are what
// was copied. If it is another one, as the upgrade of a package or a download puts in its place,
// both ends of every tensor are compared: a tensor that was quantised, trained or ordered
// differently shows there. Not proven is that nobody changed values amid a tensor only and left
// size, header and both ends as they were. An agent that is stopped and started reads anew.
//
// Thread rule: none of its own; it reads the files.
#include <cstdint>
#include <span>

#include "engine/base/result.h"
#include "engine/gguf/model_file.h"

namespace ds4 {

/// A hash over the first and the last 4 KiB of each tensor, as `fd` has them at the tensor's
/// offset. Errors: kCorrupt, naming the tensor that cannot be read.
Result<std::uint64_t> hash_tensor_ends(std::span<const TensorInfo* const> tensors, int fd);

/// True if a copy made from `copied` is as good as one made from `now`, as far as the above can
/// tell. False as well if `copied` was written to since it was opened, or one of them cannot be
/// read.
bool same_weights(const ModelFile& copied, const ModelFile& now);

}  // namespace ds4
