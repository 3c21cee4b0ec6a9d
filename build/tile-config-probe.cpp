// Compiled to assembly, never run: whether the compiler keeps a store that only `ldtilecfg` reads. If it does, the
// function's argument is used; if not, its register does not occur.
#include <immintrin.h>

extern "C" void load_configuration(unsigned char rows) {
    alignas(64) unsigned char configuration[64] = {};
    configuration[0] = 1;
    configuration[48] = rows;
    _tile_loadconfig(configuration);
}
