// Where the pixels of a blocked activation lie; layout.py tells the same in Python.
#ifndef DISBUD_MAP_H
#define DISBUD_MAP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "simd.h"

struct map {
    int32_t blocks, channels, height, width, halo;
};

INLINE int64_t row_of(const struct map *map) { return (int64_t)(map->width + map->halo) * LANES; }
INLINE int64_t origin_of(const struct map *map) { return (int64_t)map->halo * LANES; }
INLINE int64_t span_of(const struct map *map) { return map->height * row_of(map) + origin_of(map); }
INLINE int64_t plane_of(const struct map *map, int32_t block, int32_t channel) {
    return ((int64_t)block * map->channels + channel) * span_of(map);
}

// Zero what lies before, between and after the rows of one channel of one block.
INLINE void clear_halo(const struct map *map, number *plane) {
    for (int32_t row = 0; row <= map->height && map->halo; row++)
        memset(plane + row * row_of(map), 0, sizeof(number) * (size_t)origin_of(map));
}

#endif
