static void ${N}_${FUNCTION}(const float *in, float *out, int n${SETTINGS})
{
    int i;
    for (i = 0; i < n; i++) {
        const float v = in[i];
        out[i] = ${EXPRESSION};
    }
}
