# What computes; CMakeLists.txt beside this has what holds the weights.
set(DS4_CUDA_SLICE_SOURCES slice.cpp)
