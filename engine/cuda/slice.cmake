# What computes; CMakeLists.txt beside this has what holds the weights.
set(DS4_CUDA_SLICE_SOURCES
  slice.cpp launch_times.cpp slice_weights.cpp device_sessions.cpp forward_pass.cpp
  kernels/products.cu kernels/streams.cu kernels/attention_input.cu kernels/index_search.cu
  kernels/attention.cu kernels/wide_attention.cu kernels/routing.cu kernels/sampling.cu
  kernels/quantise.cu
  kernels/wide_products.cu kernels/wide_halves.cu kernels/wide_entering.cu
  kernels/one_row_products.cu kernels/few_rows_gate_up.cu kernels/few_rows_down.cu)
