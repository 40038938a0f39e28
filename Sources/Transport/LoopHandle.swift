import CLibUV

/// What every handle of libuv has in common: memory that libuv points into until its close callback
/// has run.
///
/// An open handle owns itself; `close()` ends that.
public class LoopHandle {
  /// The loop that it belongs to.
  public let loop: EventLoop
  let raw: UnsafeMutablePointer<uv_handle_t>
  private let memory: UnsafeMutableRawPointer
  private var isStarted = false
  private var isClosing = false

  init(loop: EventLoop, byteCount: Int) {
    self.loop = loop
    memory = .allocate(byteCount: byteCount, alignment: 64)
    memory.initializeMemory(as: UInt8.self, repeating: 0, count: byteCount)
    raw = memory.assumingMemoryBound(to: uv_handle_t.self)
  }

  deinit { memory.deallocate() }

  /// libuv knows the handle from now on.
  func didInitialize() {
    isStarted = true
    raw.pointee.data = Unmanaged.passRetained(self).toOpaque()
  }

  /// The handle as the structure that it really is.
  func cast<Raw>(to type: Raw.Type) -> UnsafeMutablePointer<Raw> {
    UnsafeMutableRawPointer(raw).assumingMemoryBound(to: type)
  }

  /// Whether the handle can be used.
  public var isOpen: Bool { isStarted && !isClosing }

  /// Ends the handle; its memory is freed once libuv has let go of it. Closing twice does no harm.
  public func close() {
    guard isOpen else { return }
    isClosing = true
    uv_close(raw) { handle in
      guard let handle, let data = handle.pointee.data else { return }
      // Before the release: the owner's end frees the memory that `data` lies in.
      handle.pointee.data = nil
      let owner = Unmanaged<LoopHandle>.fromOpaque(data).takeRetainedValue()
      owner.didClose()
    }
  }

  /// Runs once libuv has let go of the handle.
  func didClose() {}
}

/// The object behind a handle that a callback was given, while the handle is open.
func owner<Owner: LoopHandle, Raw>(of handle: UnsafeMutablePointer<Raw>?, as type: Owner.Type)
  -> Owner?
{
  guard let handle,
    let data = UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self).pointee
      .data
  else { return nil }
  return Unmanaged<LoopHandle>.fromOpaque(data).takeUnretainedValue() as? Owner
}
