internal import CLibCrypto

/// SHA-256 by OpenSSL's libcrypto.
package enum Digest {
  /// The digest of a file's bytes, which live until it is there.
  package static func sha256(_ file: FileBytes) -> String {
    withExtendedLifetime(file) { sha256(file.bytes) }
  }

  /// The digest of `bytes` as 64 lower-case hexadecimal digits.
  package static func sha256(_ bytes: UnsafeRawBufferPointer) -> String {
    var digest = [UInt8](repeating: 0, count: Int(EVP_MAX_MD_SIZE))
    var count: UInt32 = 0
    // An empty buffer may have no address, which libcrypto allows for a count of 0.
    let done = EVP_Digest(bytes.baseAddress, bytes.count, &digest, &count, EVP_sha256(), nil)
    precondition(done == 1, "libcrypto has no SHA-256")
    let digits = Array("0123456789abcdef".utf8)
    return String(
      decoding: digest[..<Int(count)].flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] },
      as: UTF8.self)
  }
}
