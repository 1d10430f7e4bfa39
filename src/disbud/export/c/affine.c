static void ${N}_scale_and_shift(const float *in, float *out, int channels, int inner, const float *scale,
                                 const float *shift)
{
    int c, i;
    for (c = 0; c < channels; c++)
        for (i = 0; i < inner; i++, in++, out++)
            *out = scale[c] * *in + shift[c];
}
