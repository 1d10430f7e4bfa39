static void ${N}_${FUNCTION}(const struct ${N}_block *b, const float *left, const float *right, float *out)
{
    int i, j, k, l;
    for (i = 0; i < b->sizes[0]; i++)
        for (j = 0; j < b->sizes[1]; j++)
            for (k = 0; k < b->sizes[2]; k++) {
                const float *a = left + i * b->left[0] + j * b->left[1] + k * b->left[2];
                const float *c = right + i * b->right[0] + j * b->right[1] + k * b->right[2];
                for (l = 0; l < b->sizes[3]; l++, a += b->left[3], c += b->right[3])
                    *out++ = ${EXPRESSION};
            }
}
