// Runs the bodies that GPU threads share out on threads of the CPU, where a race detector sees what
// they do to one another. An entry is always worked out by one lane alone, so that many lanes must
// give what one gives, to the last bit. Ends with exit code 1 where they do not.
#include <barrier>
#include <cstdio>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "common/pick_body.h"
#include "common/score_body.h"
#include "common/weight_geometry.h"

using namespace fishermask;

namespace {

struct ThreadLanes {
  int own, count;
  std::barrier<>* barrier;
  int rank() const { return own; }
  int size() const { return count; }
  void sync() const { barrier->arrive_and_wait(); }
};

void on_lanes(int count, const std::function<void(const ThreadLanes&)>& body) {
  std::barrier<> barrier(count);
  std::vector<std::thread> threads;
  for (int lane = 0; lane < count; ++lane) {
    threads.emplace_back([&, lane] { body(ThreadLanes{lane, count, &barrier}); });
  }
  for (std::thread& thread : threads) thread.join();
}

std::vector<double> normal(size_t n, unsigned seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> distribution;
  std::vector<double> values(n);
  for (double& value : values) value = distribution(engine);
  return values;
}

int failures = 0;

template <typename T>
void expect_equal(const char* what, int size, const std::vector<T>& one,
                  const std::vector<T>& many) {
  if (one == many) return;
  std::printf("%s of size %d: many lanes differ from one\n", what, size);
  ++failures;
}

// V M^-1 V^T of m r random rows, by way of a square root of M^-1.
std::vector<double> gram(int rows, unsigned seed) {
  const int k = 2 * rows;
  const std::vector<double> v = normal(static_cast<size_t>(rows) * k, seed);
  std::vector<double> out(static_cast<size_t>(rows) * rows);
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < rows; ++j) {
      for (int c = 0; c < k; ++c) out[i * rows + j] += v[i * k + c] * v[j * k + c] / k;
    }
  }
  return out;
}

void check_picks(int m, int r, int size) {
  const std::vector<double> e = gram(m * r, 1), h = gram(m * r, 2), traces = normal(m, 3);
  const auto run = [&](const auto& with_lanes) {
    const size_t packed = static_cast<size_t>(packed_size(r)), square = static_cast<size_t>(r) * r;
    std::vector<int64_t> slots(size), taken(m);
    std::vector<double> scores(size), runners_up(size), losses(size), x(size * square);
    std::vector<double> n(size * size * square), q(n), a(m * packed), b(a), before(m), now(m);
    std::vector<double> p(size * m * square), products(p), k(size * square);
    const PickBlock block{e.data(),
                          h.data(),
                          traces.data(),
                          m,
                          r,
                          size,
                          1.0,
                          0.9,
                          slots.data(),
                          scores.data(),
                          runners_up.data(),
                          losses.data(),
                          x.data(),
                          n.data(),
                          q.data(),
                          a.data(),
                          b.data(),
                          before.data(),
                          now.data(),
                          p.data(),
                          products.data(),
                          k.data(),
                          taken.data()};
    std::vector<double> work(std::max(follow_work(r), choose_work(m, r, 8)));
    for (int leader = 0; leader < m; ++leader) {
      with_lanes([&](const auto& lanes) { begin_leader(lanes, block, leader, work.data()); });
    }
    for (int t = 0; t < size; ++t) {
      with_lanes([&](const auto& lanes) { choose(lanes, block, t, work.data()); });
      for (int leader = 0; leader < m; ++leader) {
        with_lanes([&](const auto& lanes) { follow(lanes, block, t, leader, work.data()); });
      }
    }
    std::vector<double> all(slots.begin(), slots.end());
    for (const auto* part : {&scores, &runners_up, &losses, &x, &n, &q, &before, &a, &b, &now}) {
      all.insert(all.end(), part->begin(), part->end());
    }
    return all;
  };
  const auto one = run([](const auto& body) { body(OneLane{}); });
  const auto many = run([](const auto& body) { on_lanes(8, body); });
  expect_equal("pick_block", r, one, many);
}

template <typename T>
void check_update(int r, int c, int count) {
  UpdateColumns columns{};
  columns.count = count;
  for (int t = 0; t < count; ++t) {
    columns.first[t] = columns.total;
    columns.rank[t] = r - t % 2;
    columns.total += columns.rank[t];
    columns.max_rank = std::max(columns.max_rank, columns.rank[t]);
  }
  const int wide = 2 * columns.total;
  const auto narrow = [](const std::vector<double>& from) {
    std::vector<T> to;
    for (const double value : from) to.push_back(static_cast<T>(0.05 * value));
    return to;
  };
  const std::vector<T> middle = narrow(normal(2 * r * wide, 4));
  const std::vector<T> inner = narrow(normal(2 * c * wide, 5));
  const std::vector<T> coupling = narrow(normal(2 * r * c, 6));
  const Products<T, T> products{middle.data(), c > 0 ? inner.data() : nullptr, coupling.data(), r,
                                c};
  const auto run = [&](const auto& with_lanes) {
    std::vector<double> a(packed_size(r)), b = normal(a.size(), 7), history(count + 1);
    for (int i = 0; i < r; ++i) a[packed_at(i, i)] = 3.0;
    std::vector<double> work(work_doubles(r));
    std::vector<T> staged(work_products(r, columns.max_rank) + 1);
    with_lanes([&](const auto& lanes) {
      const double score = update_candidate(lanes, products, columns, 1, a.data(), b.data(), 7.0,
                                            history.data(), 1, work.data(), staged.data());
      if (lanes.rank() == 0) history[count] = score;
    });
    a.insert(a.end(), b.begin(), b.end());
    a.insert(a.end(), history.begin(), history.end());
    return a;
  };
  const auto one = run([](const auto& body) { body(OneLane{}); });
  const auto many = run([](const auto& body) { on_lanes(32, body); });
  expect_equal("update_candidate", r, one, many);
}

template <int Channels>
void check_squares(int64_t n_o, int64_t channels, int64_t height, int64_t width) {
  const int64_t n = 3, groups = 2, in_y = height + 2, in_x = 2 * width + 1;
  const std::vector<double> input = normal(n * groups * channels * in_y * in_x, 8);
  const std::vector<double> delta = normal(n * groups * n_o * height * width, 9);
  const WeightGeometry geometry{n,
                                groups,
                                n_o,
                                channels,
                                3,
                                2,
                                height,
                                width,
                                groups * channels * in_y * in_x,
                                in_y * in_x,
                                in_x,
                                1,
                                in_x,
                                2,
                                groups * n_o * height * width,
                                height * width,
                                width,
                                1};
  std::vector<double> expected(geometry.numel()), found(geometry.numel()), part(found);
  for (int64_t at = 0; at < geometry.numel(); ++at) {
    for (int64_t sample = 0; sample < n; ++sample) {
      double whole = 0.0;
      const int64_t channel = at / geometry.n_k(), k = at % geometry.n_k();
      for (int64_t l = 0; l < geometry.n_l(); ++l) {
        whole += input[sample * geometry.input_n + geometry.weight_offset(k) +
                       channel / n_o * channels * in_y * in_x + geometry.position_offset(l)] *
                 delta[sample * geometry.delta_n + channel * geometry.delta_o +
                       geometry.delta_offset(l)];
      }
      double shares = 0.0;
      for (int thread = 0; thread < 8; ++thread) {
        shares += share_of_entry(geometry, input.data(), delta.data(), sample, at, thread, 8);
      }
      if (std::fabs(shares - whole) > 1e-11) {
        std::printf("share_of_entry: %g instead of %g\n", shares, whole);
        ++failures;
      }
      expected[at] += whole * whole;
    }
  }
  const int64_t tiles = groups * tiles_wide<Channels>(geometry) * tiles_deep(geometry);
  for (int64_t samples = 0; samples < 2; ++samples) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      TileMemory<double, Channels> memory;
      on_lanes(256, [&](const ThreadLanes& lanes) {
        sum_squares_of_tile<ThreadLanes, double, Channels>(
            lanes, geometry, input.data(), delta.data(), tile, samples, 2, memory, part.data());
      });
    }
    for (size_t at = 0; at < found.size(); ++at) found[at] += part[at];
  }
  for (size_t at = 0; at < found.size(); ++at) {
    if (std::fabs(found[at] - expected[at]) <= 1e-10 * (1.0 + expected[at])) continue;
    std::printf("sum_squares_of_tile<%d>: %g instead of %g\n", Channels, found[at], expected[at]);
    ++failures;
  }
}

}  // namespace

int main() {
  for (int e = 0; e < packed_size(128); ++e) {
    const int row = packed_row(e);
    if (packed_at(row, 0) > e || packed_at(row + 1, 0) <= e) ++failures;
  }
  check_picks(3, 1, 2);
  check_picks(4, 3, 3);
  check_picks(3, 10, 2);
  check_update<double>(1, 0, 2);
  check_update<double>(9, 10, 3);
  check_update<float>(5, 3, 0);
  check_update<float>(12, 4, 2);
  check_squares<1>(5, 2, 2, 3);
  check_squares<2>(19, 11, 3, 7);
  check_squares<4>(33, 2, 4, 4);
  return failures == 0 ? 0 : 1;
}
