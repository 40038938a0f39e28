import CJansson
import Foundation
import GranuleFiles
import Testing

/// libjansson's allocator for the whole process, which fails on the thread that asks for it.
private enum FailingAllocator {
  private static let key = "granule.allocations-left"

  /// Allocations that succeed on this thread before one fails; nil for all.
  static var allocationsLeft: Int? {
    get { Thread.current.threadDictionary[key] as? Int }
    set { Thread.current.threadDictionary[key] = newValue }
  }

  static let installed: Void = json_set_alloc_funcs(
    { byteCount in
      if let left = FailingAllocator.allocationsLeft {
        guard left > 0 else { return nil }
        FailingAllocator.allocationsLeft = left - 1
      }
      return malloc(byteCount)
    }, { free($0) })
}

@Test("whichever allocation fails, parsing gives the whole value or an error")
func allocationFailure() throws {
  FailingAllocator.installed
  let text =
    #"{"a": [1, 2.5, "text", {"b": null, "c": [[], {}, true]}], "d\u00e9": "\ud83d\ude00"}"#
  let value = try StrictJSON.parse(text)
  var failures = 0
  for allocations in 0... {
    FailingAllocator.allocationsLeft = allocations
    defer { FailingAllocator.allocationsLeft = nil }
    do throws(StrictJSONError) {
      let parsed = try StrictJSON.parse(text)
      let same = parsed == value
      #expect(same)
      if FailingAllocator.allocationsLeft != 0 { break }
    } catch {
      failures += 1
    }
  }
  #expect(failures > 20)
}
