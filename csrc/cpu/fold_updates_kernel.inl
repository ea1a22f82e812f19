// A tile of the matrix stays in registers while all updates are taken to it.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "fold_updates_kernel.h"
#include "simd_begin.h"

constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4;
constexpr int kTileVectors = 3;
constexpr int kTileColumns = kTileVectors * kLanes<double>;

FoldTile fold_tile() { return {kTileRows, kTileColumns}; }

// matrix[i][j] += sum over e of left[e][i] right[e][j] for the entries of a tile that there are, up
// to `below` + i of row i.
FISHERMASK_INLINE void add_products(const double* left, const double* right, int64_t length,
                                    int64_t stride, int64_t rows, int64_t columns, int64_t below,
                                    double* matrix) {
  constexpr int lanes = kLanes<double>;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; j += lanes) __builtin_prefetch(matrix + i * stride + j, 1);
  }
  Vector<double> sums[kTileRows][kTileVectors] = {};
  for (int64_t e = 0; e < length; ++e) {
    Vector<double> from[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) from[v] = load(right + e * kTileColumns + v * lanes);
    for (int i = 0; i < kTileRows; ++i) {
      const Vector<double> factor = broadcast(left[e * kTileRows + i]);
      for (int v = 0; v < kTileVectors; ++v) {
        sums[i][v] = multiply_add(factor, from[v], sums[i][v]);
      }
    }
  }
  if (rows == kTileRows && below + 1 >= kTileColumns && columns == kTileColumns) {
    for (int i = 0; i < kTileRows; ++i) {
      for (int v = 0; v < kTileVectors; ++v) {
        double* to = matrix + i * stride + v * lanes;
        store(to, load(to) + sums[i][v]);
      }
    }
    return;
  }
  double tile[kTileRows * kTileColumns];
  for (int i = 0; i < kTileRows; ++i) {
    for (int v = 0; v < kTileVectors; ++v) store(tile + i * kTileColumns + v * lanes, sums[i][v]);
  }
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t stop = std::min(columns, below + i + 1);
    for (int64_t j = 0; j < stop; ++j) matrix[i * stride + j] += tile[i * kTileColumns + j];
  }
}

void fold_panel(const PackedFold& packed, int64_t panel, double* first, double* second) {
  const int64_t h = packed.h, k = packed.k, column = panel * kTileColumns;
  const int64_t columns = std::min<int64_t>(kTileColumns, k - column);
  const double* right = packed.right + panel * 2 * h * kTileColumns;
  for (int64_t block = column / kTileRows; block * kTileRows < k; ++block) {
    const int64_t row = block * kTileRows, rows = std::min<int64_t>(kTileRows, k - row);
    const double* left = packed.left + block * 2 * h * kTileRows;
    const int64_t at = row * k + column;
    const double* of_u = right + h * kTileColumns;
    add_products(left, of_u, h, k, rows, columns, row - column, first + at);
    add_products(left, right, 2 * h, k, rows, columns, row - column, second + at);
  }
}

#include "simd_end.h"
