# Whether the CUDA engine is built, decided once: sets DS4_CUDA_ENABLED and, with it, the language.
set(DS4_CUDA OFF CACHE STRING "Build the CUDA engine: ON, OFF, or AUTO (where nvcc is)")
set(DS4_CUDA_ARCHITECTURES "90-real;121-real;90-virtual" CACHE STRING
  "GPUs to compile for, as CMAKE_CUDA_ARCHITECTURES; the virtual one serves those yet to come")
set(DS4_CUDA_ENABLED OFF)

if(DS4_CUDA STREQUAL "AUTO" AND DS4_SANITIZE)
  message(STATUS "CUDA engine: not compiled with sanitizers")
  return()
endif()
if(NOT DS4_CUDA)
  return()
endif()

find_program(DS4_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_PATH PATHS /usr/local/cuda /opt/cuda
  PATH_SUFFIXES bin)
set(lacking "")
if(NOT DS4_NVCC)
  set(lacking "there is no nvcc in PATH or /usr/local/cuda/bin")
else()
  execute_process(COMMAND ${DS4_NVCC} --version RESULT_VARIABLE failed OUTPUT_VARIABLE told
    ERROR_QUIET)
  if(failed OR NOT told MATCHES "release ([0-9.]+)")
    set(lacking "${DS4_NVCC} does not run")
  elseif(CMAKE_MATCH_1 VERSION_LESS 13)
    set(lacking "${DS4_NVCC} is of CUDA ${CMAKE_MATCH_1}")
  endif()
endif()
if(lacking AND DS4_CUDA STREQUAL "AUTO")
  message(STATUS "CUDA engine: not compiled: ${lacking}")
  return()
elseif(lacking)
  message(FATAL_ERROR "The CUDA engine needs the CUDA 13 toolkit: ${lacking}. Install it, or set "
                      "-DDS4_NVCC=/path/to/nvcc; the preset release builds everything else")
endif()

set(CMAKE_CUDA_COMPILER ${DS4_NVCC})
set(CMAKE_CUDA_ARCHITECTURES ${DS4_CUDA_ARCHITECTURES})
if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
enable_language(CUDA)
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_EXTENSIONS OFF)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc takes C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # linked by name: CUDA::cudart_static
# Or packages in /usr would put /usr/include before the compiler's own folders.
list(APPEND CMAKE_CUDA_IMPLICIT_INCLUDE_DIRECTORIES ${CMAKE_CXX_IMPLICIT_INCLUDE_DIRECTORIES})
find_package(CUDAToolkit REQUIRED)
set(DS4_CUDA_ENABLED ON)
message(STATUS "CUDA engine: ${DS4_NVCC} ${CUDAToolkit_VERSION}, for ${DS4_CUDA_ARCHITECTURES}")
