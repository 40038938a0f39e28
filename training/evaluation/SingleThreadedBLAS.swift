internal import COpenBLAS

/// OpenBLAS on the calling thread only: whoever multiplies brings its own threads.
enum SingleThreadedBLAS {
  /// To be named before OpenBLAS is called.
  static let use: Void = openblas_set_num_threads(1)
}
