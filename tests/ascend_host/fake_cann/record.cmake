# What the stand-ins for CANN's build share: they note how they were called and install a file where CANN would.
function(record)
  string(REPLACE ";" " " line "${ARGN}")
  file(APPEND ${CMAKE_BINARY_DIR}/calls.txt "${line}\n")
endfunction()

function(fake_vendor vendor)
  file(WRITE ${CMAKE_BINARY_DIR}/fake.so "not a library\n")
  set(base packages/vendors/${vendor})
  file(STRINGS ${ASCEND_CANN_PACKAGE_PATH}/compiler/version.info version REGEX "^Version=")
  string(REPLACE "Version" "custom_opp_compiler_version" version "${version}")
  file(WRITE ${CMAKE_BINARY_DIR}/version.info "${version}\n")
  install(FILES ${CMAKE_BINARY_DIR}/version.info DESTINATION ${base})
  install(FILES ${CMAKE_BINARY_DIR}/fake.so DESTINATION ${base}/op_api/lib RENAME libcust_opapi.so)
  install(FILES ${CMAKE_BINARY_DIR}/fake.so DESTINATION ${base}/op_proto/lib/linux/any)
  foreach(unit ${ASCEND_COMPUTE_UNIT})
    install(FILES ${CMAKE_BINARY_DIR}/calls.txt DESTINATION ${base}/op_impl/ai_core/tbe/config/${unit})
  endforeach()
endfunction()

# Compiles as CANN's own step does: C++11, CANN's headers, whatever else was asked for.
function(fake_compile)
  cmake_parse_arguments(FAKE "" "" "SOURCES;OPTIONS" ${ARGN})
  foreach(source ${FAKE_SOURCES})
    execute_process(
      COMMAND ${CMAKE_CXX_COMPILER} -fsyntax-only -std=c++11 ${FAKE_OPTIONS} -I${ASCEND_CANN_PACKAGE_PATH}/include ${source}
      RESULT_VARIABLE result)
    if(result)
      message(FATAL_ERROR "could not compile ${source}")
    endif()
  endforeach()
endfunction()
