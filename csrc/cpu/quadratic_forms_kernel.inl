// One sample a lane; see tile_products.h. Each lane's arithmetic is its own, in an order that
// neither the tile nor the threads change.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "quadratic_forms_kernel.h"
#include "simd_begin.h"

// What follows is compiled anew for each instruction set.
#include "common/small_matrix.h"
#include "tile_products.h"

constexpr int kFormLanes = kTile<double>;
constexpr int kStretch = 96;        // rows of a panel that stay in the first-level cache
constexpr int kPanelsTogether = 4;  // whose sums, for all rows of V, stay in the second
constexpr int kPairPanels = 20;     // whose stretch stays there
constexpr int kTilesTogether = 8;   // that share a stretch of pairs

int form_panel() { return kColumns; }

// out[q] += sum over e of left[e] right[e][q]; `width` columns q.
static void add_product(const double* left, const double* right, int64_t length, int width,
                        double* out) {
  product_of_width<double, kColumns>(width, left, right, static_cast<int>(length), width, true,
                                     out);
}

// out[j] += sum over q of left[q] right[j][q], lane by lane, for Count j.
template <int Count>
FISHERMASK_INLINE void dots(const double* left, const double* right, int64_t right_step,
                            int64_t length, double* out, int64_t out_step) {
  constexpr int lanes = kLanes<double>;
  Vector<double> sum[Count][2];
  for (int j = 0; j < Count; ++j) {
    for (int h = 0; h < 2; ++h) sum[j][h] = load(out + j * out_step + h * lanes);
  }
  for (int64_t q = 0; q < length; ++q) {
    for (int h = 0; h < 2; ++h) {
      const int64_t at = q * kFormLanes + h * lanes;
      const Vector<double> factor = load(left + at);
      for (int j = 0; j < Count; ++j) {
        sum[j][h] = multiply_add(factor, load(right + j * right_step + at), sum[j][h]);
      }
    }
  }
  for (int j = 0; j < Count; ++j) {
    for (int h = 0; h < 2; ++h) store(out + j * out_step + h * lanes, sum[j][h]);
  }
}

static void add_dots(const double* left, const double* right, int64_t right_step, int64_t length,
                     int64_t count, double* out, int64_t out_step) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) {
    dots<4>(left, right + j * right_step, right_step, length, out + j * out_step, out_step);
  }
  for (; j < count; ++j) {
    dots<1>(left, right + j * right_step, right_step, length, out + j * out_step, out_step);
  }
}

// One thread's working memory, and the work on a few tiles.
template <typename Stored>
class FormTiles {
 public:
  FormTiles(const Candidates<Stored>& candidates, int64_t n_forms)
      : v_(candidates), n_forms_(n_forms), pairs_(packed_size(candidates.c)) {
    const int64_t r = v_.r, c = v_.c, tiles = c == 0 ? 0 : kTilesTogether;
    middle_ = allocate<double>(r * v_.m * kFormLanes);
    half_ = allocate<double>(r * r * kFormLanes);
    sums_ = allocate<double>(r * kPanelsTogether * kColumns * kFormLanes);
    if (c == 0) return;
    coupling_ = allocate<double>(r * c * kFormLanes);
    hidden_ = allocate<double>(tiles * v_.d * kFormLanes);
    if (v_.inputs != nullptr) masked_ = allocate<double>(v_.starts[c] * kFormLanes);
    squares_ = allocate<double>(kStretch * kFormLanes);
    inner_ = allocate<double>(n_forms * tiles * pairs_ * kFormLanes);
    crossed_ = allocate<double>(static_cast<int64_t>(v_.m) * kFormLanes);
    z_ = allocate<double>(r * c * kFormLanes);
  }

  // At most kTilesTogether tiles.
  void run(const std::vector<PackedForm>& forms, int64_t first, int64_t count,
           const std::vector<double*>& outs) {
    const int64_t tiles = (count + kFormLanes - 1) / kFormLanes;
    if (v_.c > 0) {
      for (int64_t tile = 0; tile < tiles; ++tile) {
        locate(first, count, tile);
        turn(v_.hidden, at_, v_.d, hidden(tile));
      }
      std::fill_n(inner_.get(), n_forms_ * kTilesTogether * pairs_ * kFormLanes, 0.0);
      for (int64_t form = 0; form < n_forms_; ++form) pair_classes(forms[form], form, tiles);
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      locate(first, count, tile);
      turn(v_.middle, at_, static_cast<int64_t>(v_.r) * v_.m, middle_.get());
      if (v_.c > 0) turn_head(tile);
      for (int64_t form = 0; form < n_forms_; ++form) {
        std::fill_n(half_.get(), static_cast<int64_t>(v_.r) * v_.r * kFormLanes, 0.0);
        add_middle(forms[form]);
        if (v_.c > 0) add_head(forms[form], hidden(tile), inner(form, tile));
        write(std::min<int64_t>(kFormLanes, count - tile * kFormLanes), outs[form]);
      }
    }
  }

 private:
  double* hidden(int64_t tile) { return hidden_.get() + tile * v_.d * kFormLanes; }
  double* inner(int64_t form, int64_t tile) {
    return inner_.get() + (form * kTilesTogether + tile) * pairs_ * kFormLanes;
  }

  // The samples of a tile; missing lanes repeat the last one.
  void locate(int64_t first, int64_t count, int64_t tile) {
    for (int64_t lane = 0; lane < kFormLanes; ++lane) {
      at_[lane] = first + std::min(tile * kFormLanes + lane, count - 1);
    }
  }

  void turn_head(int64_t tile) {
    turn(v_.coupling, at_, static_cast<int64_t>(v_.r) * v_.c, coupling_.get());
    if (v_.inputs == nullptr) return;
    for (int64_t e = 0; e < v_.starts[v_.c]; ++e) {
      std::copy_n(hidden(tile) + v_.inputs[e] * kFormLanes, kFormLanes,
                  masked_.get() + e * kFormLanes);
    }
  }

  // tril(T) of every tile.
  void pair_classes(const PackedForm& form, int64_t which, int64_t tiles) {
    const int64_t places = static_cast<int64_t>(v_.d) * (v_.d + 1) / 2;
    for (int64_t low = 0; low < pairs_; low += kPairPanels * kColumns) {
      const int64_t high = std::min<int64_t>(low + kPairPanels * kColumns, pairs_);
      int i = 0, j = 0;
      for (int64_t start = 0; start < places; start += kStretch) {
        const int64_t here = std::min<int64_t>(kStretch, places - start);
        int next_i = i, next_j = j;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          next_i = i;
          next_j = j;
          square(hidden(tile), here, next_i, next_j);
          for (int64_t panel = low; panel < high; panel += kColumns) {
            const int width = static_cast<int>(std::min<int64_t>(kColumns, pairs_ - panel));
            add_product(squares_.get(), form.pairs.data() + places * panel + start * width, here,
                        width, inner(which, tile) + panel * kFormLanes);
          }
        }
        i = next_i;
        j = next_j;
      }
    }
  }

  // h_i h_j at `length` places of the packed triangle, from (i, j) on; moves (i, j) past them.
  void square(const double* h, int64_t length, int& i, int& j) {
    constexpr int lanes = kLanes<double>;
    double* to = squares_.get();
    for (const double* end = to + length * kFormLanes; to != end; to += kFormLanes) {
      for (int at = 0; at < kFormLanes; at += lanes) {
        store(to + at, load(h + i * kFormLanes + at) * load(h + j * kFormLanes + at));
      }
      if (j++ == i) {
        ++i;
        j = 0;
      }
    }
  }

  // H += middle tril(Q) middle^T.
  void add_middle(const PackedForm& form) {
    constexpr int64_t together = kPanelsTogether * kColumns;
    const int64_t r = v_.r, m = v_.m, step = m * kFormLanes;
    const double* panels = form.middle.data();
    for (int64_t low = 0; low < m; low += together) {
      const int64_t wide = std::min(together, m - low);
      std::fill_n(sums_.get(), r * wide * kFormLanes, 0.0);
      for (int64_t start = low; start < m; start += kStretch) {
        const int64_t stop = std::min(start + kStretch, m);
        for (int64_t row = 0; row < r; ++row) {
          const double* panel = panels;
          for (int64_t column = low; column < low + wide; column += kColumns) {
            const int width = static_cast<int>(std::min<int64_t>(kColumns, m - column));
            const int64_t begin = std::max(start, column);
            if (begin < stop) {
              add_product(middle_.get() + row * step + begin * kFormLanes,
                          panel + (begin - column) * width, stop - begin, width,
                          sums_.get() + (row * wide + column - low) * kFormLanes);
            }
            panel += (m - column) * width;
          }
        }
      }
      for (int64_t column = low; column < low + wide; column += kColumns) {
        panels += (m - column) * std::min<int64_t>(kColumns, m - column);
      }
      for (int64_t row = 0; row < r; ++row) {
        add_dots(sums_.get() + row * wide * kFormLanes, middle_.get() + low * kFormLanes, step,
                 wide, r, half_.get() + row * r * kFormLanes, kFormLanes);
      }
    }
  }

  // H += coupling (Z + tril(T) coupling^T); z_ keeps its columns together.
  void add_head(const PackedForm& form, const double* hidden, const double* inner) {
    const int64_t r = v_.r, m = v_.m, c = v_.c, step = c * kFormLanes;
    std::fill_n(z_.get(), r * step, 0.0);
    const double* panel = form.cross.data();
    for (int64_t own = 0; own < c; ++own) {
      const int64_t entries = v_.starts[own + 1] - v_.starts[own];
      const double* inputs =
          v_.inputs == nullptr ? hidden : masked_.get() + v_.starts[own] * kFormLanes;
      std::fill_n(crossed_.get(), m * kFormLanes, 0.0);
      for (int64_t column = 0; column < m; column += kColumns) {
        const int width = static_cast<int>(std::min<int64_t>(kColumns, m - column));
        add_product(inputs, panel, entries, width, crossed_.get() + column * kFormLanes);
        panel += entries * width;
      }
      double* z = z_.get() + own * kFormLanes;
      add_dots(crossed_.get(), middle_.get(), m * kFormLanes, m, r, z, step);
      add_dots(inner + packed_at(static_cast<int>(own), 0) * kFormLanes, coupling_.get(), step,
               own + 1, r, z, step);
    }
    for (int64_t row = 0; row < r; ++row) {
      add_dots(coupling_.get() + row * step, z_.get(), step, c, r,
               half_.get() + row * r * kFormLanes, kFormLanes);
    }
  }

  // H + H^T of the tile's first samples.
  void write(int64_t count, double* out) const {
    const int64_t r = v_.r;
    for (int64_t lane = 0; lane < count; ++lane) {
      double* form = out + at_[lane] * r * r;
      const double* half = half_.get() + lane;
      for (int64_t i = 0; i < r; ++i) {
        for (int64_t j = 0; j < r; ++j) {
          form[i * r + j] = half[(i * r + j) * kFormLanes] + half[(j * r + i) * kFormLanes];
        }
      }
    }
  }

  const Candidates<Stored>& v_;
  const int64_t n_forms_;
  const int64_t pairs_;
  int64_t at_[kFormLanes];
  Memory<double> middle_, coupling_, hidden_, masked_;  // V of a tile; hidden_ of all of them
  Memory<double> sums_, half_, squares_, inner_, crossed_, z_;
};

template <typename Stored>
static void run(const Candidates<Stored>& candidates, const std::vector<PackedForm>& forms,
                int64_t first, int64_t count, const std::vector<double*>& outs) {
  FormTiles<Stored> tiles(candidates, static_cast<int64_t>(forms.size()));
  for (int64_t start = 0; start < count; start += kTilesTogether * kFormLanes) {
    const int64_t here = std::min<int64_t>(kTilesTogether * kFormLanes, count - start);
    tiles.run(forms, first + start, here, outs);
  }
}

void quadratic_forms(const Candidates<float>& candidates, const std::vector<PackedForm>& forms,
                     int64_t first, int64_t count, const std::vector<double*>& outs) {
  run(candidates, forms, first, count, outs);
}

void quadratic_forms(const Candidates<double>& candidates, const std::vector<PackedForm>& forms,
                     int64_t first, int64_t count, const std::vector<double*>& outs) {
  run(candidates, forms, first, count, outs);
}

#include "simd_end.h"
