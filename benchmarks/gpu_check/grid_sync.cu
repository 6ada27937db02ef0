// The grid's barrier of CUDA's cooperative groups. Follows limits.cu; needs the toolkit's headers.

#include <cooperative_groups.h>

extern "C" __global__ void grid_sync(
    unsigned n, unsigned* counter, unsigned* reached, unsigned* errors)
{
    cooperative_groups::grid_group grid = cooperative_groups::this_grid();
    for (unsigned i = 1; i <= n; ++i) {
        note(reached, i);
        grid.sync();
        look(reached, i, errors);
    }
}
