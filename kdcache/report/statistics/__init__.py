"""Statistics of the comparison: arrays in, frozen results out. Pure numpy and scipy; knows no run folder."""
