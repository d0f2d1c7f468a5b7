#pragma once
// The two blocks of a layer. Each takes its normed input from Workspace::x, of which the products'
// form is prepared in act_x, and leaves its output in Workspace::y.
#include "engine/model/batch.h"
#include "engine/model/weights.h"

namespace ds4 {

/// Attention over the sessions' raw and compressed rows; appends the call's rows to the caches.
/// `index` is the layer's place in the slice, `ratio` its compression.
void attention_block(const Compute& compute, const Batch& batch, Workspace& ws,
                     const LayerWeights& layer, std::uint32_t index, std::uint32_t ratio);

/// The routed experts and the shared one.
void expert_block(const Compute& compute, const Batch& batch, Workspace& ws,
                  const LayerWeights& layer, float swiglu_limit);

}  // namespace ds4
