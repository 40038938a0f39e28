/// Why a file of tensors cannot be read or written: the file, the tensor where there is one, and
/// the fault.
public struct FileError: Error, CustomStringConvertible, Sendable {
  /// The file's path, or the name under which it was published.
  public let file: String
  /// The tensor (or key) concerned, nil where the fault concerns the file as a whole.
  public let tensor: String?
  /// What is wrong, and where it helps what was expected.
  public let fault: String

  /// A fault of `file`, or of one tensor in it.
  public init(file: String, tensor: String? = nil, fault: String) {
    self.file = file
    self.tensor = tensor
    self.fault = fault
  }

  /// `FILE: tensor NAME: FAULT`
  public var description: String {
    guard let tensor else { return "\(file): \(fault)" }
    return "\(file): tensor \(tensor): \(fault)"
  }
}
