# What the project builds on. Debian's packages, and LibTorch (FindLibTorch.cmake).
find_package(Threads REQUIRED)
find_package(nlohmann_json 3.11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(LIBZIP REQUIRED IMPORTED_TARGET libzip)
pkg_check_modules(ZLIB REQUIRED IMPORTED_TARGET zlib)
find_path(STB_INCLUDE_DIR stb/stb_image.h REQUIRED)

if(NOT FLOWMAP_FUZZ)
  find_package(LibTorch REQUIRED)
  find_package(CLI11 2.1 REQUIRED)
  # OpenCVConfig.cmake sits in libopencv-dev, which drags in a hundred libraries; core
  # and imgproc alone are two headers folders and two libraries.
  find_path(OPENCV_INCLUDE_DIR opencv2/core.hpp PATH_SUFFIXES opencv4 REQUIRED)
  find_library(OPENCV_CORE_LIBRARY opencv_core REQUIRED)
  find_library(OPENCV_IMGPROC_LIBRARY opencv_imgproc REQUIRED)
  add_library(fm_opencv INTERFACE)
  target_include_directories(fm_opencv SYSTEM INTERFACE ${OPENCV_INCLUDE_DIR})
  target_link_libraries(fm_opencv INTERFACE ${OPENCV_IMGPROC_LIBRARY}
                        ${OPENCV_CORE_LIBRARY})
endif()

# CUDA: the kernels compile where nvcc is found; LibTorch must be a CUDA build too.
set(FLOWMAP_WITH_CUDA OFF)
if(NOT FLOWMAP_FUZZ AND NOT FLOWMAP_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER AND TARGET LibTorch::cuda)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # Real code for A100, H100/H200 and B200, PTX of the last for what comes after.
      set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 100)
    endif()
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(FLOWMAP_WITH_CUDA ON)
  elseif(FLOWMAP_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FLOWMAP_CUDA=ON needs nvcc (found: '${CMAKE_CUDA_COMPILER}') "
      "and a CUDA build of LibTorch at ${LibTorch_DIR_FOUND}")
  endif()
endif()
