"""The pruning methods: one short file a family, one catalogue, and the loop that turns scores into tickets."""
