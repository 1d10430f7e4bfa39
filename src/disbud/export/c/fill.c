static void ${N}_fill(float *out, int n, float value)
{
    int i;
    for (i = 0; i < n; i++)
        out[i] = value;
}
