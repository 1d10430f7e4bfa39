#include <limits.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if INT_MAX < 2147483647
#error "int has fewer than 32 bits here"
#endif
