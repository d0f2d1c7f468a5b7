# The vector operations: one source, compiled once per instruction set. A multiply-add rounds once
# only where the source says so, not where a compiler sees one.
set(ops_flags -ffp-contract=off)
add_library(ds4_cpu_ops STATIC ${CMAKE_CURRENT_LIST_DIR}/ops.cpp ${CMAKE_CURRENT_LIST_DIR}/ops_generic.cpp)
target_link_libraries(ds4_cpu_ops PUBLIC ds4_base)
set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/ops_generic.cpp PROPERTIES COMPILE_OPTIONS
                            "${ops_flags}")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  target_sources(ds4_cpu_ops PRIVATE ${CMAKE_CURRENT_LIST_DIR}/ops_avx2.cpp
                                     ${CMAKE_CURRENT_LIST_DIR}/ops_avx512.cpp)
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/ops_avx2.cpp PROPERTIES COMPILE_OPTIONS
                              "${ops_flags};-mavx2;-mfma")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/ops_avx512.cpp PROPERTIES COMPILE_OPTIONS
                              "${ops_flags};-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx2;-mfma;-mprefer-vector-width=512")
  set_source_files_properties(${CMAKE_CURRENT_LIST_DIR}/ops.cpp PROPERTIES COMPILE_DEFINITIONS
                              DS4_X86_KERNELS)
endif()
