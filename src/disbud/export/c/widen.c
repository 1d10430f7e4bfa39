/* IEEE half precision as single precision, bit by bit. */
static float ${N}_widen(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1fu, fraction = half & 0x3ffu;
    union { uint32_t bits; float value; } wide;
    if (exponent == 0) { /* zero, and numbers below the smallest normal one: fraction * 2^-24 */
        wide.value = (float)fraction * 5.9604644775390625e-8f;
        wide.bits |= sign;
    } else {
        wide.bits = sign | (exponent + 112u) << 23 | fraction << 13;
    }
    return wide.value;
}
