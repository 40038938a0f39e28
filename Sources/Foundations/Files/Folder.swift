internal import Glibc

/// Folders, as far as the modules above need them.
public enum Folder {
  /// The names in a folder, sorted, hidden ones included.
  ///
  /// - Throws: `FileError` with the system's reason.
  public static func entries(of path: String) throws(FileError) -> [String] {
    guard let directory = opendir(path) else { throw FileError.system(path) }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// Makes a folder with all that lead to it; one that is there already is left as it is.
  ///
  /// - Throws: `FileError` with the system's reason.
  public static func make(_ path: String) throws(FileError) {
    var partial = path.hasPrefix("/") ? "/" : ""
    for component in path.split(separator: "/") {
      partial += component + "/"
      if mkdir(partial, 0o755) != 0 && errno != EEXIST { throw FileError.system(partial) }
    }
    guard isFolder(path) else { throw FileError(file: path, fault: "is not a folder") }
  }

  /// Makes a folder that is not there yet, with the files that `fill` writes, whole or not at all:
  /// it is filled under another name beside, and renamed.
  ///
  /// - Parameter fill: writes files, no folders, into the folder that it is given.
  /// - Throws: `FileError` if there is something at `path`, else with the system's reason,
  ///   or what `fill` throws.
  public static func create(
    _ path: String, _ fill: (_ temporary: String) throws(FileError) -> Void
  ) throws(FileError) {
    try requireFree(path)
    let target = absolute(path)
    let components = target.split(separator: "/")
    let parent = components.dropLast().reduce("") { $0 + "/" + $1 }
    // A number that neither another thread's folder has nor one that a crash has left.
    let temporary = "\(parent)/.\(components.last ?? "").\(UInt64.random(in: 0 ... .max))"
    if !parent.isEmpty { try make(parent) }
    guard mkdir(temporary, 0o755) == 0 else { throw FileError.system(temporary) }
    do throws(FileError) {
      try fill(temporary)
      guard rename(temporary, target) == 0 else { throw FileError.system(path) }
    } catch {
      for name in (try? entries(of: temporary)) ?? [] { unlink("\(temporary)/\(name)") }
      rmdir(temporary)
      throw error
    }
    try DurableFile.flushFolder(parent)
  }

  /// Makes sure that there is nothing at `path`, before what is long work is done for it.
  ///
  /// - Throws: `FileError` if there is something, or the path is empty.
  public static func requireFree(_ path: String) throws(FileError) {
    guard !path.isEmpty else {
      throw FileError(file: "the path", fault: "is empty: name the folder to write")
    }
    var status = stat()
    guard lstat(path, &status) != 0 else {
      throw FileError(
        file: path, kind: .exists, fault: "is there already: choose another path")
    }
    guard errno == ENOENT else { throw FileError.system(path) }
  }

  /// The same path from the root, which means the same wherever a later process runs.
  public static func absolute(_ path: String) -> String {
    guard !path.hasPrefix("/"), let current = getcwd(nil, 0) else { return path }
    defer { free(current) }
    return String(cString: current) + "/" + path
  }

  /// Whether there is a folder at `path`.
  public static func isFolder(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
  }
}
