# CMake (3.15 and later) reads this after each `project()` of llama.cpp's build: `.cargo/config.toml` sets CMAKE_PROJECT_INCLUDE, which
# llama-cpp-sys-2's build script passes on.
#
# On x86-64, the compiler is asked for the assembly of tile-config-probe.cpp. If it dropped the store in it, tile-config.h
# is included before each C++ source: without it, llama.cpp's routines for AMX fault. It changes nothing in code that is
# not compiled for AMX.
if(CMAKE_SOURCE_DIR STREQUAL PROJECT_SOURCE_DIR AND CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  separate_arguments(arguments UNIX_COMMAND "${CMAKE_CXX_COMPILER_ARG1}")
  execute_process(
    COMMAND ${CMAKE_CXX_COMPILER} ${arguments} -O3 -march=sapphirerapids -S -o - ${CMAKE_CURRENT_LIST_DIR}/tile-config-probe.cpp
    OUTPUT_VARIABLE assembly
    ERROR_QUIET)
  # A compiler that does not know the instruction compiles no routine that has it.
  if(assembly MATCHES "ldtilecfg" AND NOT assembly MATCHES "%(dil|di|edi|rdi)")
    message(STATUS "Stores of the tile configuration are dropped by this compiler: including tile-config.h")
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include \"${CMAKE_CURRENT_LIST_DIR}/tile-config.h\">")
  endif()
endif()
