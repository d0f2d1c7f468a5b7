# .rpm: dependencies on libraries are found by rpmbuild; the rest of the fields, scripts and marks is here.
set(CPACK_GENERATOR RPM)
set(CPACK_RPM_COMPONENT_INSTALL ON)
set(CPACK_RPM_PACKAGE_RELEASE 1)
set(CPACK_RPM_FILE_NAME RPM-DEFAULT)
set(CPACK_RPM_PACKAGE_LICENSE MIT)
set(CPACK_RPM_COMPRESSION_TYPE xz)
set(CPACK_RPM_PACKAGE_RELOCATABLE OFF)
set(CPACK_RPM_SPEC_MORE_DEFINE "%define packager ${DS4_PACKAGER}\n%define _build_id_links none")

set(requires_agent "systemd")
set(requires_cuda "ds4d = ${PROJECT_VERSION}")
set(requires_client-dev "libds4client = ${PROJECT_VERSION}")
set(requires_python "python3, libds4client >= ${PROJECT_VERSION}")

set(group_agent "System/Daemons")
set(group_cuda "System/Daemons")
set(group_client "System/Libraries")
set(group_client-dev "Development/Libraries/C and C++")
set(group_python "Development/Languages/Python")

foreach(component ${packages})
  string(TOUPPER ${component} upper)
  ds4_package_name(${component} name)
  string(SUBSTRING "${summary_${component}}" 0 1 initial)  # Debian's begin with a small letter
  string(SUBSTRING "${summary_${component}}" 1 -1 rest)
  string(TOUPPER ${initial} initial)
  set(summary "${initial}${rest}")
  set(CPACK_RPM_${upper}_PACKAGE_NAME ${name})
  set(CPACK_RPM_${upper}_FILE_NAME RPM-DEFAULT)
  set(CPACK_RPM_${upper}_PACKAGE_SUMMARY "${summary}")
  set(CPACK_RPM_${upper}_PACKAGE_GROUP "${group_${component}}")
  set(CPACK_COMPONENT_${upper}_DESCRIPTION "${text_${component}}")
  set(CPACK_RPM_${upper}_PACKAGE_REQUIRES "${requires_${component}}")
  set(folder ${CMAKE_INSTALL_FULL_DATADIR}/licenses/${name})
  install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${folder} COMPONENT ${component})
  set(CPACK_RPM_${upper}_USER_FILELIST "%license ${folder}/LICENSE")
endforeach()

list(APPEND CPACK_RPM_AGENT_USER_FILELIST
     "%config(noreplace) ${CMAKE_INSTALL_FULL_SYSCONFDIR}/ds4d/ds4d.toml"
     "%doc ${CMAKE_INSTALL_FULL_DOCDIR}/examples/cluster.toml")
set(CPACK_RPM_AGENT_POST_INSTALL_SCRIPT_FILE ${scripts}/rpm/post)
set(CPACK_RPM_AGENT_PRE_UNINSTALL_SCRIPT_FILE ${scripts}/rpm/preun)
set(CPACK_RPM_AGENT_POST_UNINSTALL_SCRIPT_FILE ${scripts}/rpm/postun)
set(CPACK_RPM_CLIENT_POST_INSTALL_SCRIPT_FILE ${scripts}/rpm/ldconfig)
set(CPACK_RPM_CLIENT_POST_UNINSTALL_SCRIPT_FILE ${scripts}/rpm/ldconfig)
set(CPACK_RPM_CUDA_USER_FILELIST ${CPACK_RPM_CUDA_USER_FILELIST}
    "%config(noreplace) ${CMAKE_INSTALL_FULL_SYSCONFDIR}/ds4d/ds4d.toml.d/10-cuda.toml")
set(CPACK_RPM_CUDA_POST_INSTALL_SCRIPT_FILE ${scripts}/rpm/cuda-post)
set(CPACK_RPM_PYTHON_PACKAGE_ARCHITECTURE noarch)

# Folders of others.
get_filename_component(python_folder /usr/${DS4_PYTHON_DIR} DIRECTORY)
set(CPACK_RPM_EXCLUDE_FROM_AUTO_FILELIST_ADDITION
    /etc /usr/sbin /usr/lib/systemd /usr/lib/systemd/system /usr/lib/sysusers.d /usr/lib/tmpfiles.d
    /usr/lib64 /usr/lib64/pkgconfig /usr/lib64/cmake /usr/share/licenses /usr/share/man
    /usr/share/man/man1 /usr/share/man/man5 /usr/share/man/man8
    /usr/share/bash-completion /usr/share/bash-completion/completions
    /usr/share/zsh /usr/share/zsh/site-functions ${python_folder} /usr/${DS4_PYTHON_DIR})
