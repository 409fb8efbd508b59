# fm_layer(NAME folder-relative sources are globbed; LINK libraries; PCH header)
# One static library per layer. PCH: the header tier (docs/build.md) it precompiles.
function(fm_layer name)
  cmake_parse_arguments(L "" "PCH" "LINK;SOURCES" ${ARGN})
  add_library(${name} STATIC ${L_SOURCES})
  target_link_libraries(${name} PUBLIC fm_flags ${L_LINK})
  target_include_directories(${name} PUBLIC "${CMAKE_SOURCE_DIR}/lib" "${CMAKE_SOURCE_DIR}")
  if(L_PCH)
    target_precompile_headers(${name} PRIVATE ${L_PCH})
  endif()
endfunction()

# fm_test(FILE.cpp LINK layer...): one program and one CTest entry per suite.
function(fm_test source)
  cmake_parse_arguments(T "" "" "LINK" ${ARGN})
  file(RELATIVE_PATH relative "${CMAKE_SOURCE_DIR}/tests" "${source}")
  string(REGEX REPLACE "_test\\.cpp$" "" name "${relative}")
  string(REPLACE "/" "." name "${name}")
  add_executable(test_${name} "${source}")
  set_target_properties(test_${name} PROPERTIES
    RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests" UNITY_BUILD OFF)
  target_link_libraries(test_${name} PRIVATE ${T_LINK} fm_test_support)
  # base, formats and kernels know no torch, and neither do their tests: these build in seconds,
  # under the sanitizers too (target torch_free_tests).
  if(relative MATCHES "^(base|formats|kernels)/")
    add_dependencies(torch_free_tests test_${name})
  elseif(TARGET fm_torch_pch)
    target_precompile_headers(test_${name} REUSE_FROM fm_test_pch)
  endif()
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 LABELS "${relative}"
    ENVIRONMENT "OMP_NUM_THREADS=1;FLOWMAP_SOURCE_DIR=${CMAKE_SOURCE_DIR};FLOWMAP_BINARY=$<TARGET_FILE:flowmap>")
endfunction()
