static void ${N}_sum(const float *in, float *out, int outer, int count, int inner, float divisor)
{
    int o, i, k;
    for (o = 0; o < outer; o++, in += count * inner)
        for (i = 0; i < inner; i++) {
            float sum = 0.0f;
            for (k = 0; k < count; k++)
                sum += in[k * inner + i];
            *out++ = sum / divisor;
        }
}
