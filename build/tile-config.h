// Included before each C++ source of llama.cpp by llama-cpp.cmake, where the compiler needs it.
//
// GCC's <amxtileintrin.h> declares that LDTILECFG reads 8 bytes, until the fix of GCC's PR target/114098 (11.3 and 12.2 do
// so, 13.3 does not). It reads 64, so the optimiser removes the stores to the other 56, and the instruction faults on what
// was on the stack. This version declares all of them.
#if defined(__cplusplus) && defined(__AMX_TILE__)
#include <immintrin.h>
static inline void load_whole_tile_configuration(const void *configuration) {
    __asm__ volatile("ldtilecfg\t%0" ::"m"(*static_cast<const char (*)[64]>(configuration)));
}
#define _tile_loadconfig load_whole_tile_configuration
#endif
