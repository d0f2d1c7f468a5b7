#pragma once
// A slice whose weights can fail under it: what it computed meanwhile is thrown away.
#include <memory>

#include "engine/model/slice.h"
#include "engine/residency/residence.h"

namespace ds4::agent {

/// Passes everything on to `slice`, and after each forward() asks `weights` whether they were
/// whole: kIo with their reason if not. Its caches are of no use then; whoever owns the slice sees
/// the same in weights->broken() and lets it go.
std::unique_ptr<Slice> guard_slice(std::unique_ptr<Slice> slice,
                                   std::shared_ptr<const Residence> weights);

}  // namespace ds4::agent
