# Imported targets for a LibTorch that is there already.
#
# LibTorch's own find_package(Torch) demands a CUDA toolkit even for CPU use, so this
# module looks at files only. Where: LIBTORCH (variable or environment; an unpacked
# libtorch or a Python environment's torch folder), then the cache that scripts/setup
# fills (FLOWMAP_CACHE, by default ~/.cache/flowmap).
#
# Defines LibTorch::cpu and, where libtorch_cuda.so is there, LibTorch::cuda;
# LibTorch_VERSION, LibTorch_DIR_FOUND.
#
# What the environment says is remembered: a later build that configures again by itself
# may run without it.
foreach(_name LIBTORCH FLOWMAP_CACHE)
  if(NOT "$ENV{${_name}}" STREQUAL "")
    get_filename_component(_path "$ENV{${_name}}" ABSOLUTE BASE_DIR "${CMAKE_SOURCE_DIR}")
    set(${_name} "${_path}" CACHE PATH "where LibTorch is (cmake/FindLibTorch.cmake)" FORCE)
  endif()
endforeach()
set(_candidates "")
if(LIBTORCH)
  list(APPEND _candidates "${LIBTORCH}" "${LIBTORCH}/torch")
else()
  set(_cache "${FLOWMAP_CACHE}")
  if(NOT _cache)
    set(_cache "$ENV{HOME}/.cache/flowmap")
  endif()
  file(GLOB _cached "${_cache}/torch-*/torch")
  list(SORT _cached COMPARE NATURAL ORDER DESCENDING)
  list(APPEND _candidates ${_cached})
endif()

set(LibTorch_DIR_FOUND "")
foreach(_dir IN LISTS _candidates)
  if(EXISTS "${_dir}/include/ATen/ATen.h" AND EXISTS "${_dir}/lib/libtorch_cpu.so")
    set(LibTorch_DIR_FOUND "${_dir}")
    break()
  endif()
endforeach()

if(LibTorch_DIR_FOUND)
  set(LibTorch_VERSION "")
  if(EXISTS "${LibTorch_DIR_FOUND}/include/torch/headeronly/version.h")
    set(_version_file "${LibTorch_DIR_FOUND}/include/torch/headeronly/version.h")
  else()
    set(_version_file "${LibTorch_DIR_FOUND}/include/torch/csrc/api/include/torch/version.h")
  endif()
  if(EXISTS "${_version_file}")
    file(STRINGS "${_version_file}" _lines REGEX "#define TORCH_VERSION_(MAJOR|MINOR|PATCH) ")
    foreach(_line IN LISTS _lines)
      string(REGEX MATCH "[0-9]+$" _number "${_line}")
      list(APPEND _numbers ${_number})
    endforeach()
    string(REPLACE ";" "." LibTorch_VERSION "${_numbers}")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LibTorch_DIR_FOUND
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE "run ./scripts/setup, or set LIBTORCH=/path to an unpacked \
libtorch or to the torch folder of a Python environment")

if(LibTorch_FOUND AND NOT TARGET LibTorch::cpu)
  function(_fm_torch_library name)
    add_library(LibTorch::${name} SHARED IMPORTED)
    set_target_properties(LibTorch::${name} PROPERTIES
      IMPORTED_LOCATION "${LibTorch_DIR_FOUND}/lib/lib${name}.so")
  endfunction()
  _fm_torch_library(c10)
  _fm_torch_library(torch_cpu)
  _fm_torch_library(torch)
  add_library(LibTorch::cpu INTERFACE IMPORTED)
  target_include_directories(LibTorch::cpu SYSTEM INTERFACE
    "${LibTorch_DIR_FOUND}/include"
    "${LibTorch_DIR_FOUND}/include/torch/csrc/api/include")
  # Wheels since 2.6 and this project's compiler agree on the new ABI.
  target_compile_definitions(LibTorch::cpu INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  target_link_libraries(LibTorch::cpu INTERFACE LibTorch::torch_cpu LibTorch::c10)
  if(EXISTS "${LibTorch_DIR_FOUND}/lib/libtorch_cuda.so")
    _fm_torch_library(c10_cuda)
    _fm_torch_library(torch_cuda)
    add_library(LibTorch::cuda INTERFACE IMPORTED)
    # Nothing here names a symbol of torch_cuda; its static constructors register the
    # CUDA kernels, so the linker must keep it.
    target_link_libraries(LibTorch::cuda INTERFACE LibTorch::cpu LibTorch::c10_cuda
      "-Wl,--no-as-needed,$<TARGET_FILE:LibTorch::torch_cuda>,$<TARGET_FILE:LibTorch::torch>,--as-needed")
  endif()
endif()
