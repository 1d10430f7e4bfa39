/* Sizes of four nested loops, and how far apart the entries are that they go over. */
struct ${N}_block {
    int sizes[4], left[4], right[4];
};
