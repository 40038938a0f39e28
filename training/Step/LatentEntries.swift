internal import CGranuleKernels
internal import GranuleTensors
internal import GranuleThreads

/// The active latents of a batch in order of latents, each latent's in order of tokens: a counting
/// sort of the codes, on all cores. Memory is kept from batch to batch.
final class LatentEntries {
  /// What an entry contributes to sums over its latent alone.
  struct Detail {
    /// W_dec[j] · (what residuals send back): ∂reconstruction losses/∂z.
    var product: Float
    /// ∂loss/∂θ
    var threshold: Float
  }

  /// A code's latents with what each receives: [nonzeros], in order of tokens.
  struct Codes {
    var codes: SparseCodes
    /// z, 0 if a latent is listed only because of its threshold.
    var values: UnsafePointer<Float>
    /// ∂loss/∂h
    var gradients: UnsafePointer<Float>
    var products: UnsafePointer<Float>
    /// nil if there are no thresholds.
    var thresholds: UnsafePointer<Float>?
    /// The dictionary's index of each latent of the codes; nil: the same.
    var latentIndices: [UInt32]?
  }

  let latents: Int
  /// [latents + 1]
  let offsets: UnsafeMutablePointer<UInt32>
  private(set) var entries: UnsafeMutablePointer<gk_entry>
  private(set) var details: UnsafeMutablePointer<Detail>
  private var capacity = 0
  /// Where each part of the tokens goes on in each latent: [parts, latents]
  private let next: UnsafeMutablePointer<UInt32>
  private let parts = Parallel.threads

  init(latents: Int) {
    self.latents = latents
    offsets = .allocate(capacity: latents + 1)
    offsets.initialize(repeating: 0, count: latents + 1)
    next = .allocate(capacity: parts * latents)
    entries = .allocate(capacity: 0)
    details = .allocate(capacity: 0)
  }

  deinit {
    offsets.deallocate()
    next.deallocate()
    entries.deallocate()
    details.deallocate()
  }

  /// As the kernels take them.
  var kernelEntries: gk_entries { gk_entries(entries: entries, offsets: offsets) }

  /// Where latent's entries are.
  func range(of latent: Int) -> Range<Int> { Int(offsets[latent])..<Int(offsets[latent + 1]) }

  func fill(_ source: Codes) {
    reserve(source.codes.indices.count)
    let tokens = source.codes.tokens
    source.codes.indices.withUnsafeBufferPointer { indices in
      source.codes.rowOffsets.withUnsafeBufferPointer { rowOffsets in
        if let latentIndices = source.latentIndices {
          latentIndices.withUnsafeBufferPointer { map in
            sort(source, tokens, indices, rowOffsets) { map.baseAddress![Int($0)] }
          }
        } else {
          sort(source, tokens, indices, rowOffsets) { $0 }
        }
      }
    }
  }

  @inline(__always)
  private func sort(
    _ source: Codes, _ tokens: Int, _ indices: UnsafeBufferPointer<UInt32>,
    _ rowOffsets: UnsafeBufferPointer<UInt32>, _ latent: (UInt32) -> UInt32
  ) {
    let parts = parts
    func share(of part: Int) -> Range<Int> {
      tokens * part / parts..<tokens * (part + 1) / parts
    }
    Parallel.forRanges(parts) { _, range in
      for part in range {
        let counts = next + part * latents
        counts.initialize(repeating: 0, count: latents)
        let tokens = share(of: part)
        for i in Int(rowOffsets[tokens.lowerBound])..<Int(rowOffsets[tokens.upperBound]) {
          counts[Int(latent(indices.baseAddress![i]))] += 1
        }
      }
    }
    var total: UInt32 = 0
    for latent in 0..<latents {
      offsets[latent] = total
      for part in 0..<parts {
        let count = next[part * latents + latent]
        next[part * latents + latent] = total
        total += count
      }
    }
    offsets[latents] = total
    Parallel.forRanges(parts) { _, range in
      for part in range {
        let next = next + part * latents
        for token in share(of: part) {
          for i in Int(rowOffsets[token])..<Int(rowOffsets[token + 1]) {
            let latent = Int(latent(indices.baseAddress![i]))
            let slot = Int(next[latent])
            next[latent] += 1
            entries[slot] = gk_entry(
              token: UInt32(token), value: source.values[i], gradient: source.gradients[i])
            details[slot] = Detail(
              product: source.products[i], threshold: source.thresholds?[i] ?? 0)
          }
        }
      }
    }
  }

  private func reserve(_ count: Int) {
    guard count > capacity else { return }
    entries.deallocate()
    details.deallocate()
    // BatchTopK and thresholds have another number each time.
    capacity = count + count / 4
    entries = .allocate(capacity: capacity)
    details = .allocate(capacity: capacity)
  }
}
