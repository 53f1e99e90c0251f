# Of llama.cpp's tools the server is built, with what it needs; the package would build twenty others.
# What is around the kernels (ggml) is optimised less: it compiles a third faster and waits for them anyway.
# CMake includes this after each project() (CMAKE_PROJECT_INCLUDE); the folders are known at the end.
function(model_server_only)
  set(tools "${CMAKE_SOURCE_DIR}/tools")
  get_property(folders DIRECTORY "${tools}" PROPERTY SUBDIRECTORIES)
  foreach(folder IN LISTS folders)
    if(NOT folder STREQUAL "${tools}/server")
      set_property(DIRECTORY "${folder}" PROPERTY EXCLUDE_FROM_ALL ON)
    endif()
  endforeach()
  foreach(target llama llama-common llama-common-base mtmd server-context llama-server-impl cpp-httplib)
    if(TARGET ${target})
      target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU,Clang>:-O1>)
    endif()
  endforeach()
endfunction()

if(PROJECT_IS_TOP_LEVEL)
  cmake_language(DEFER CALL model_server_only)
endif()
