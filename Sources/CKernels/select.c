#include "CKernels.h"
#include "vector.h"

// Hoare's selection: rearranges values so that the k largest come first, and returns the k-th.
// The pivot is drawn by a fixed generator, so that no input can be built to make it quadratic
// without knowing it, and the answer never depends on it.
static float select_kth_largest(float *values, size_t count, size_t k) {
  size_t low = 0, high = count - 1;
  uint32_t state = 0x9E3779B9u;
  while (low < high) {
    state = state * 1664525u + 1013904223u;
    float pivot = values[low + (size_t)(((uint64_t)state * (high - low + 1)) >> 32)];
    size_t left = low, right = high;
    while (left <= right) {
      while (values[left] > pivot) left++;
      while (values[right] < pivot) right--;
      if (left <= right) {
        float swapped = values[left];
        values[left++] = values[right];
        values[right] = swapped;
        if (right == 0) break;
        right--;
      }
    }
    if (k - 1 <= right && right < high) high = right;
    else if (k - 1 >= left) low = left;
    else return pivot;
  }
  return values[k - 1];
}

// Candidates above the k-th largest so far gather in scratch; each time it fills, it shrinks to the
// k largest and the bar rises. In scores of no particular order few survive the bar after the first
// few blocks, so this is one predictable pass. (The bar is strict: values equal to the k-th largest
// never change it.)
float granule_kth_largest_positive(const float *values, size_t count, size_t k, float *scratch) {
  enum { block = 256 };
  size_t room = 4 * k + 2 * block, gathered = 0;
  float bar = 0;
  for (size_t start = 0; start < count; start += block) {
    size_t end = start + block < count ? start + block : count;
    for (size_t i = start; i < end; i++) {
      scratch[gathered] = values[i];
      gathered += values[i] > bar;
    }
    if (gathered + block > room) {
      float kth = select_kth_largest(scratch, gathered, k);
      if (kth > bar) bar = kth;
      gathered = k;
    }
  }
  if (gathered < k) return 0;
  return select_kth_largest(scratch, gathered, k);
}

size_t granule_indices_above(
    const float *values, size_t count, float threshold, uint32_t *indices) {
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    indices[found] = (uint32_t)i;
    found += values[i] > threshold;
  }
  return found;
}

size_t granule_indices_above_each(
    const float *values, const float *thresholds, float slack, size_t count, uint32_t *indices) {
  size_t found = 0;
  for (size_t i = 0; i < count; i++) {
    indices[found] = (uint32_t)i;
    found += values[i] > thresholds[i] - slack;
  }
  return found;
}
