internal import COpenBLAS

/// OpenBLAS on the calling thread only: whoever multiplies brings its own threads.
package enum SingleThreadedBLAS {
  /// To be named before OpenBLAS is called.
  package static let use: Void = openblas_set_num_threads(1)
}
