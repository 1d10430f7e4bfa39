static void ${N}_softmax(const float *in, float *out, int outer, int count, int inner, int logarithm)
{
    int o, i, k;
    for (o = 0; o < outer; o++, in += count * inner, out += count * inner)
        for (i = 0; i < inner; i++) {
            float most = in[i], sum = 0.0f;
            for (k = 1; k < count; k++)
                most = in[k * inner + i] > most ? in[k * inner + i] : most;
            for (k = 0; k < count; k++)
                sum += expf(in[k * inner + i] - most);
            for (k = 0; k < count; k++) {
                const float v = in[k * inner + i] - most;
                out[k * inner + i] = logarithm ? v - logf(sum) : expf(v) / sum;
            }
        }
}
