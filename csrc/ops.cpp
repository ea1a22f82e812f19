// The schemas of every op, in one place. An implementation registers itself for its device beside
// its kernel (csrc/cpu/<op>.cpp, csrc/cuda/<op>.cu); argument checks live in
// fishermask_fast/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fishermask_fast, m) {
  // T rank updates of A and B (packed lower triangles) of the candidates `index`, in order, and
  // their scores. Returns, for the scores before each update: the largest, its lowest index, and
  // the lowest index whose score reaches the threshold (N where there is none).
  m.def(
      "score_update(Tensor middle, Tensor? coupling, Tensor? hidden, Tensor? head_index, "
      "Tensor index, Tensor u, Tensor w, int[] ranks, float scale, Tensor thresholds, "
      "bool float64_products, Tensor(a!) a, Tensor(b!) b, Tensor(c!) scores) "
      "-> (Tensor, Tensor, Tensor)");

  // V_x, V_x S_1 and V_x S_2 of the samples `index`, in float64, for S_1 = first -+ U U^T and
  // S_2 = second -+ (U W^T + W U^T), both symmetric, of which the lower triangles are read.
  m.def(
      "inverse_products(Tensor middle, Tensor? coupling, Tensor? hidden, Tensor? head_index, "
      "Tensor index, Tensor first, Tensor second, Tensor u, Tensor w, float scale, float sign) "
      "-> (Tensor, Tensor, Tensor)");

  // M^-1 -+= U U^T and G -+= U W^T + W U^T, of which the lower triangles are read and written.
  m.def("fold_updates(Tensor(a!) first, Tensor(b!) second, Tensor u, Tensor w, float sign) -> ()");

  // U^T, W^T and the score of samples from their V, Y = V M^-1 and Z = V G, (n, r, k) each, of
  // which no direction has an eigenvalue of V M^-1 V^T below `negligible`; else the score is -inf.
  m.def(
      "pick_update(Tensor rows, Tensor y, Tensor z, float sign, float negligible) "
      "-> (Tensor, Tensor, Tensor)");

  // V_x Q V_x^T of every sample for some symmetric (k, k) Q, of which the lower triangles are read:
  // (matrices, N, r, r) float64.
  m.def(
      "quadratic_forms(Tensor middle, Tensor? coupling, Tensor? hidden, Tensor? head_index, "
      "Tensor[] matrices) -> Tensor");

  // For V = coupling kron hidden at masked places, samples last, padded with zeros to a multiple of
  // 16, float64: adds the lower triangle of sum_x V_x^T V_x to `total` (k, k); and for a symmetric
  // (k, k) matrix Q the lower triangles of T_x, (c, c, n), with V_x Q V_x^T = coupling T
  // coupling^T.
  m.def("masked_head_gram(Tensor coupling, Tensor hidden, Tensor starts, Tensor(a!) total) -> ()");
  m.def("masked_head_forms(Tensor hidden, Tensor starts, Tensor matrix) -> Tensor");

  // Per-sample gradients of a weight from the layer's input, padded already, and its output
  // gradient: squared and summed over the samples, or at sorted flat positions, (N, m).
  m.def(
      "fisher_diag_conv2d(Tensor input, Tensor delta, int[] kernel, int[] stride, int[] dilation, "
      "int groups) -> Tensor");
  m.def("fisher_diag_linear(Tensor input, Tensor delta) -> Tensor");
  m.def(
      "masked_grad_conv2d(Tensor input, Tensor delta, Tensor index, int[] kernel, int[] stride, "
      "int[] dilation, int groups) -> Tensor");
  m.def("masked_grad_linear(Tensor input, Tensor delta, Tensor index) -> Tensor");

  // The greedy picks among m leaders alone, from their inner products E_ab = V_a M^-1 V_b^T and
  // H_ab = V_a G V_b^T. Returns of each pick: its place among the leaders, its score, the best
  // score beside it, how far B has fallen, X, N and Q (see csrc/pick_body.h); and every leader's
  // score before the first.
  m.def(
      "pick_block(Tensor e, Tensor h, Tensor setup_traces, int rows, int size, int sign, "
      "float reach) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
}
