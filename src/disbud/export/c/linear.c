static void ${N}_linear_${CODE}(${SIZE}int outputs, const float *in, float *out, const ${VALUE} *values${TABLES},
                                const float *bias)
{
    int n, output, place;
    for (output = 0; output < outputs; output++) {
        float sum = bias != NULL ? bias[output] : 0.0f;
        place = -1;
        for (n = ${COUNT}; n > 0; n--) {
            ${NEXT}
            sum += ${READ} * in[place];
        }
        out[output] = sum;
    }
}
