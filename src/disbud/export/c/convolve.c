static void ${N}_convolve_${CODE}(const struct ${N}_convolution *c, const float *in, float *out,
                                  const ${VALUE} *values${TABLES}, const float *bias)
{
    const int plane = c->out_height * c->out_width, area = c->kernel_height * c->kernel_width;
    struct ${N}_reach reach[${AREA}];
    int i, n, output, place, end;
    ${N}_reach_of(c, reach);
    for (output = 0; output < c->outputs; output++, out += plane) {
        const float *read = in + output / c->outputs_a_group * c->inputs_a_group * c->in_height * c->in_width;
        for (i = 0; i < plane; i++)
            out[i] = bias != NULL ? bias[output] : 0.0f;
        place = -1;
        end = area; /* of the places that read the present plane */
        for (n = ${COUNT}; n > 0; n--) {
            ${NEXT}
            for (; place >= end; end += area)
                read += c->in_height * c->in_width;
            ${N}_add_tap(c, reach + place - (end - area), read, out, ${READ});
        }
    }
}
