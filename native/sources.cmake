# What the extension and the checks are both made of: sources, their flags, and sanitizers.
set(native ${CMAKE_CURRENT_LIST_DIR}/src)
set(kernels ${native}/kernels)
set(quantized ${native}/quantized)

set(GLINTHAWK_SANITIZE "" CACHE STRING
    "Sanitizers to build with, for tests: address,undefined or thread. Nothing: none")

find_package(Threads REQUIRED)
# Drives are read by io_uring where liburing can be built in; threads do the same elsewhere.
find_path(URING_INCLUDE liburing.h)
find_library(URING_LIBRARY NAMES liburing.a)

# Adds everything but what Python sees to `target`.
function(add_native_sources target)
  file(GLOB sources CONFIGURE_DEPENDS ${native}/attention/*.cpp ${native}/dense/*.cpp
       ${native}/machine/*.cpp ${native}/pages/*.cpp ${native}/sampling/*.cpp
       ${native}/schedule/*.cpp ${native}/storage/*.cpp)
  target_sources(${target} PRIVATE ${sources} ${kernels}/isa.cpp ${kernels}/portable.cpp
                 ${kernels}/amx_emulated.cpp ${quantized}/kernel.cpp ${quantized}/packed_weight.cpp
                 ${quantized}/portable.cpp ${quantized}/product.cpp)
  target_include_directories(${target} PUBLIC ${native})
  target_link_libraries(${target} PRIVATE Threads::Threads)
  # No fused multiply-adds but those asked for: templates for different numbers of rows must round alike.
  target_compile_options(${target} PRIVATE -Wall -Wextra -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # psabi: vector types are passed differently between instruction sets; none crosses a file.
    # uninitialized: false alarms inside GCC's own intrinsics.
    target_compile_options(${target} PRIVATE -Wno-psabi -Wno-uninitialized -Wno-maybe-uninitialized)
  endif()
  if(GLINTHAWK_SANITIZE)
    # What is found ends the process, so that nobody can overlook it.
    target_compile_options(${target} PUBLIC -g -fno-omit-frame-pointer
                           -fsanitize=${GLINTHAWK_SANITIZE} -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${GLINTHAWK_SANITIZE})
  endif()
  if(URING_INCLUDE AND URING_LIBRARY)
    target_compile_definitions(${target} PRIVATE GLINTHAWK_URING)
    target_include_directories(${target} SYSTEM PRIVATE ${URING_INCLUDE})
    target_link_libraries(${target} PRIVATE ${URING_LIBRARY})
  endif()

  # Each instruction set is one file with flags of its own, so that none of its instructions can end up
  # in code that runs elsewhere. nanobind builds for size; kernels are built for speed.
  set_source_files_properties(
    ${native}/pages/row_writer.cpp ${kernels}/portable.cpp ${kernels}/amx_emulated.cpp
    ${quantized}/packed_weight.cpp ${quantized}/portable.cpp ${quantized}/product.cpp
    PROPERTIES COMPILE_OPTIONS "-O3")
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(avx2 -O3 -mavx2 -mfma -mf16c)
    set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)
    set(avx512_bf16 ${avx512} -mavx512bf16 -mavx512vnni)
    set(amx ${avx512_bf16} -mamx-tile -mamx-bf16 -mamx-int8)
    foreach(isa avx2 avx512 avx512_bf16 amx)
      target_sources(${target} PRIVATE ${kernels}/${isa}.cpp)
      set_source_files_properties(${kernels}/${isa}.cpp PROPERTIES COMPILE_OPTIONS "${${isa}}")
    endforeach()
    # Codes of 8 bits are looked up by VBMI, which all but the first CPUs with BF16 have.
    set(avx512_bf16 ${avx512_bf16} -mavx512vbmi)
    foreach(isa avx2 avx512 avx512_bf16)
      target_sources(${target} PRIVATE ${quantized}/${isa}.cpp)
      set_source_files_properties(${quantized}/${isa}.cpp PROPERTIES COMPILE_OPTIONS "${${isa}}")
    endforeach()
  endif()
endfunction()
