#pragma once
// Which compressed rows a query sees where there are more than it may: the indexer's top_k.
#include "engine/model/batch.h"

namespace ds4 {

/// For every row of the call that can see more than top_k compressed rows of the layer at `index`
/// (its place in the slice): the best of them by score, ascending, into Workspace::chosen and
/// chosen_count. Reads index_w and index_q, in the official graph as index_q_blocks, which must be
/// finished. A key's score depends on the key and the query alone, so how the search is cut into
/// pieces changes nothing.
void search_index(const Compute& compute, const Batch& batch, Workspace& ws, std::uint32_t index,
                  std::uint32_t ratio);

}  // namespace ds4
