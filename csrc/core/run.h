// One call of the core: packing, the division of the work among threads, and the sums.
#pragma once

#include "isa.h"
#include "pool.h"

namespace lnrnn {

// Compute job.out from job.in.
template <class T, class S>
void forward(const Kernel<T, S>& kernel, Job<T, S> job, Pool& pool);

// Compute job.grad from job.in and job.out; projections x W and h U that were not kept are computed
// again.
template <class T, class S>
void backward(const Kernel<T, S>& kernel, Job<T, S> job, Pool& pool);

}  // namespace lnrnn
