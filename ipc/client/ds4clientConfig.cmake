# find_package(ds4client): the target ds4::client, the C and C++ headers with the shared library.
include("${CMAKE_CURRENT_LIST_DIR}/ds4clientTargets.cmake")
