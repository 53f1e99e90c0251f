# Of llama.cpp's tools the server is built, with what it needs; the package would build twenty others.
# CMake includes this after each project() (CMAKE_PROJECT_INCLUDE); the folders are known at the end.
function(model_server_only)
  set(tools "${CMAKE_SOURCE_DIR}/tools")
  get_property(folders DIRECTORY "${tools}" PROPERTY SUBDIRECTORIES)
  foreach(folder IN LISTS folders)
    if(NOT folder STREQUAL "${tools}/server")
      set_property(DIRECTORY "${folder}" PROPERTY EXCLUDE_FROM_ALL ON)
    endif()
  endforeach()
endfunction()

if(PROJECT_IS_TOP_LEVEL)
  cmake_language(DEFER CALL model_server_only)
endif()
