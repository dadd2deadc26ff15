include(${CMAKE_CURRENT_LIST_DIR}/record.cmake)

function(opbuild)
  cmake_parse_arguments(OPBUILD "" "OUT_DIR" "OPS_SRC" ${ARGN})
  record(opbuild ${OPBUILD_OPS_SRC})
  list(FILTER OPBUILD_OPS_SRC INCLUDE REGEX "/mla_prolog_quant_")  # the others compile the same way
  fake_compile(SOURCES ${OPBUILD_OPS_SRC})
endfunction()

function(add_ops_compile_options op_type)
  cmake_parse_arguments(OP "" "" "COMPUTE_UNIT;OPTIONS" ${ARGN})
  record(add_ops_compile_options ${op_type} ${OP_OPTIONS})
endfunction()

function(add_kernels_compile)
  file(GLOB kernels RELATIVE ${CMAKE_SOURCE_DIR}/op_kernel ${CMAKE_SOURCE_DIR}/op_kernel/*.cpp)
  record(add_kernels_compile ${vendor_name} ${ASCEND_COMPUTE_UNIT} ${ENABLE_BINARY_PACKAGE} ${kernels})
  add_custom_target(binary)
endfunction()
