// Small symmetric matrices as packed lower triangles, entry (i, j <= i) at i (i + 1) / 2 + j.
//
// Included inside the namespace of its user, once per unit, so that no two instruction sets share a
// function. `Value` is a double, or a bundle of doubles that hold the same entry of several
// matrices: the host's vector units, a GPU thread and a test run the same arithmetic. It needs
// Value(double), +, *, subtract_product(c, a, b) = c - a b, add_product(c, a, b) = c + a b and
// reciprocal_sqrt(a).

#ifdef __CUDACC__
#define FISHERMASK_SMALL_MATRIX __host__ __device__ inline
#else
#define FISHERMASK_SMALL_MATRIX static inline __attribute__((always_inline))
#endif

FISHERMASK_SMALL_MATRIX constexpr int packed_size(int n) { return n * (n + 1) / 2; }
FISHERMASK_SMALL_MATRIX constexpr int packed_at(int i, int j) { return i * (i + 1) / 2 + j; }

// tr(A^-1 B) for positive definite A and symmetric B, n x n; a(e) and b(e) give packed entry e.
//
// With A = L L^T and X = L^-1, the trace is the sum over rows x of X of x B x^T. Row by row, L, X
// and that sum take n^3 / 2 multiplications together. `work` holds 2 packed_size(n) values.
template <typename Value, typename EntryOfA, typename EntryOfB>
FISHERMASK_SMALL_MATRIX Value trace_of_solve(int n, EntryOfA a, EntryOfB b, Value* work) {
  Value* l = work;
  Value* x = work + packed_size(n);
  Value trace = Value(0.0);
  for (int i = 0; i < n; ++i) {
    Value* li = l + packed_at(i, 0);
    Value* xi = x + packed_at(i, 0);
    Value pivot = a(packed_at(i, i));
    for (int j = 0; j < i; ++j) {
      const Value* lj = l + packed_at(j, 0);
      Value entry = a(packed_at(i, j));
      for (int m = 0; m < j; ++m) entry = subtract_product(entry, li[m], lj[m]);
      li[j] = entry * lj[j];  // L's diagonal is kept as its reciprocal
      pivot = subtract_product(pivot, li[j], li[j]);
    }
    const Value reciprocal = reciprocal_sqrt(pivot);
    li[i] = reciprocal;
    for (int j = 0; j < i; ++j) {
      Value entry = Value(0.0);
      for (int m = j; m < i; ++m) entry = subtract_product(entry, li[m], x[packed_at(m, j)]);
      xi[j] = entry * reciprocal;
    }
    xi[i] = reciprocal;
    for (int j = 0; j <= i; ++j) {
      Value product = Value(0.0);
      for (int m = 0; m < j; ++m) product = add_product(product, b(packed_at(j, m)), xi[m]);
      product = add_product(product + product, b(packed_at(j, j)), xi[j]);
      trace = add_product(trace, xi[j], product);
    }
  }
  return trace;
}
