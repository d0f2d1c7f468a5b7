# CPack: one package for each component that has something to install.
#
# Debian's and Fedora's names differ, and so do the folders of documents and of zsh functions; all else
# is the same tree. DS4_PACKAGES (deb or rpm) chooses, as packaging/build.sh does; nothing is packaged
# without it.
set(DS4_PACKAGES "" CACHE STRING "Kind of packages that `cpack` makes: deb, rpm or nothing")
set(packages agent client client-dev python)
if(DS4_CUDA_ENABLED)
  list(APPEND packages cuda)
endif()

if(DS4_PACKAGES STREQUAL "rpm")
  set(zsh_folder ${CMAKE_INSTALL_DATADIR}/zsh/site-functions)
else()
  set(zsh_folder ${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions)
endif()
install(FILES completions/_ds4ctl DESTINATION ${zsh_folder} COMPONENT agent)
if(NOT DS4_PACKAGES)
  return()
endif()

set(names_deb agent ds4d client libds4client1 client-dev libds4client-dev python python3-ds4 cuda ds4d-cuda)
set(names_rpm agent ds4d client libds4client client-dev libds4client-devel python python3-ds4 cuda ds4d-cuda)
function(ds4_package_name component out)
  list(FIND names_${DS4_PACKAGES} ${component} at)
  math(EXPR at "${at} + 1")
  list(GET names_${DS4_PACKAGES} ${at} name)
  set(${out} ${name} PARENT_SCOPE)
endfunction()

set(summary_agent "node agent that holds a share of a DeepSeek V4 model")
set(text_agent
"One ds4d on every machine keeps the layers that were assigned to it in memory,
computes with them, and passes activations to the other agents, so several
machines run a model that none of them holds. Local programs use it through
shared memory. ds4ctl assigns layers, shows what is resident, and asks
questions. A small model is included: the service answers once installed.")
set(summary_cuda "node agent for DeepSeek V4 models - engine for NVIDIA GPUs")
set(text_cuda
"The engine that ds4d loads where there is an NVIDIA GPU, and a drop-in for its
service that lets it reach the GPU's device files. The driver is not included.")
set(summary_client "client library for the DeepSeek V4 node agent")
set(text_client
"Programs send prompts to the ds4d of their machine, and receive tokens, through
rings in shared memory. This is the library that they link.")
set(summary_client-dev "client library for the DeepSeek V4 node agent - development")
set(text_client-dev
"Headers for C and C++, and the files for pkg-config and CMake, to build
programs that talk to the ds4d of their machine through shared memory.")
set(summary_python "Python module for the DeepSeek V4 node agent")
set(text_python
"The module ds4: prompts to the ds4d of this machine, and tokens back, with or
without asyncio, through the client library.")

set(CPACK_PACKAGE_NAME ds4d)
set(CPACK_PACKAGE_VENDOR "The ds4d authors")
# Nobody's mailbox: example.org is reserved (RFC 2606), and a name that checkers of packages accept.
# Whoever hands packages on is their maintainer: DEBEMAIL and DEBFULLNAME, as packaging/build.sh says.
set(DS4_PACKAGER "ds4d maintainers <ds4d@ds4d.example.org>" CACHE STRING
    "Who makes the packages: their maintainer")
set(CPACK_PACKAGE_CONTACT "${DS4_PACKAGER}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGING_INSTALL_PREFIX ${CMAKE_INSTALL_PREFIX})
set(CPACK_COMPONENTS_ALL ${packages})
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
    GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_THREADS 0)
set(scripts ${CMAKE_CURRENT_SOURCE_DIR})
include(cmake/Ds4Package_${DS4_PACKAGES}.cmake)
include(CPack)
