# What other programs build and run with. Three components, as distributions cut them:
#   client      libds4client.so.1
#   client-dev  headers, libds4client.so, pkg-config file, CMake package
#   python      the module ds4, where Debian's python3 looks below /usr
include(CMakePackageConfigHelpers)

set(DS4_PYTHON_DIR lib/python3/dist-packages CACHE STRING "Of the Python module, below the prefix")
get_target_property(DS4_CLIENT_VERSION ds4client VERSION)
set(client_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ds4client)

set_target_properties(ds4client PROPERTIES EXPORT_NAME client)
target_include_directories(ds4client INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
install(TARGETS ds4client EXPORT ds4client
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT client NAMELINK_COMPONENT client-dev
  PUBLIC_HEADER DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT client-dev)

install(EXPORT ds4client NAMESPACE ds4:: FILE ds4clientTargets.cmake
  DESTINATION ${client_cmake_dir} COMPONENT client-dev)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ds4clientConfigVersion.cmake
  VERSION ${DS4_CLIENT_VERSION} COMPATIBILITY SameMajorVersion)
install(FILES client/ds4clientConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/ds4clientConfigVersion.cmake
  DESTINATION ${client_cmake_dir} COMPONENT client-dev)

# Written when it is installed: only then is the prefix known for sure.
install(CODE "
  set(DS4_CLIENT_VERSION ${DS4_CLIENT_VERSION})
  set(CMAKE_INSTALL_LIBDIR ${CMAKE_INSTALL_LIBDIR})
  set(CMAKE_INSTALL_INCLUDEDIR ${CMAKE_INSTALL_INCLUDEDIR})
  configure_file(\"${CMAKE_CURRENT_SOURCE_DIR}/client/ds4client.pc.in\"
                 \"${CMAKE_CURRENT_BINARY_DIR}/ds4client.pc\" @ONLY)
  " COMPONENT client-dev)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ds4client.pc
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT client-dev)

install(DIRECTORY python/ds4 DESTINATION ${DS4_PYTHON_DIR} COMPONENT python
  FILES_MATCHING PATTERN "*.py" PATTERN "py.typed" PATTERN "__pycache__" EXCLUDE)
