/// Why a pickle is not one that is read here.
package struct PickleError: Error {
  package let description: String
}

/// A Python object that a pickle describes.
package struct PickledValue {
  package enum Kind {
    case none
    case bool(Bool)
    case integer(Int)
    case real(Double)
    case string(String)
    case tuple([PickledValue])
    case list(Items)
    case dictionary(Members)
    /// A class or function, named only.
    case global(String)
    /// What the reader's caller made of a persistent id or a call.
    case object(Any)
  }

  /// A list, which grows in place while it is read.
  package final class Items { package fileprivate(set) var values: [PickledValue] = [] }
  /// A dictionary, which grows in place while it is read: keys and values as they were set.
  package final class Members {
    package fileprivate(set) var pairs: [(key: PickledValue, value: PickledValue)] = []
  }

  package let kind: Kind
  /// Levels of containers below.
  package let depth: Int

  fileprivate init(_ kind: Kind, depth: Int = 0) {
    self.kind = kind
    self.depth = depth
  }

  /// An object of the caller's.
  package init(object: Any) { self.init(.object(object)) }

  package var integer: Int? { if case .integer(let value) = kind { value } else { nil } }
  package var bool: Bool? { if case .bool(let value) = kind { value } else { nil } }
  package var string: String? { if case .string(let value) = kind { value } else { nil } }
  package var global: String? { if case .global(let name) = kind { name } else { nil } }
  package var tuple: [PickledValue]? { if case .tuple(let values) = kind { values } else { nil } }
  package var object: Any? { if case .object(let value) = kind { value } else { nil } }
  /// Keys and values of a dictionary, else nil.
  package var members: [(key: PickledValue, value: PickledValue)]? {
    if case .dictionary(let members) = kind { members.pairs } else { nil }
  }

  fileprivate var isContainer: Bool {
    switch kind {
    case .list, .dictionary: true
    default: false
    }
  }
}

/// Reads pickles as data, never as programs: of Python's opcodes those that a state dict of torch is
/// written with, of globals those that are named, calls only of what the caller answers. Memory is
/// bounded by the pickle's length, nesting by `depthMax`.
///
/// The opcodes are those of Python's pickletools, protocols 2 to 4.
package struct PickleReader {
  /// How deeply containers may be nested: beyond any state dict, far below what a stack holds.
  package static let depthMax = 32

  /// The globals that may be named, as `module name`.
  let knownGlobals: Set<String>
  /// The object of a persistent id.
  let persistent: (PickledValue) throws(PickleError) -> PickledValue
  /// The result of calling a global with arguments.
  let call: (String, [PickledValue]) throws(PickleError) -> PickledValue

  /// A reader that knows these globals and no others.
  package init(
    knownGlobals: Set<String>,
    persistent: @escaping (PickledValue) throws(PickleError) -> PickledValue,
    call: @escaping (String, [PickledValue]) throws(PickleError) -> PickledValue
  ) {
    self.knownGlobals = knownGlobals
    self.persistent = persistent
    self.call = call
  }

  private enum Item {
    case value(PickledValue)
    case mark
  }

  /// What may be fetched again: containers, which might be changed meanwhile, may not.
  private enum Remembered {
    case value(PickledValue)
    case container
  }

  /// Reads one pickle.
  ///
  /// - Throws: `PickleError` with the offset and the fault.
  package func read(_ bytes: [UInt8]) throws(PickleError) -> PickledValue {
    var at = 0
    var stack: [Item] = []
    var memo: [Int: Remembered] = [:]

    func fault(_ text: String) -> PickleError {
      PickleError(description: "its pickle, at byte \(at): \(text)")
    }
    func take(_ count: Int) throws(PickleError) -> ArraySlice<UInt8> {
      guard count >= 0, count <= bytes.count - at else {
        throw fault("it ends early: \(count) bytes are needed, \(bytes.count - at) are left")
      }
      defer { at += count }
      return bytes[at..<at + count]
    }
    func number(_ count: Int) throws(PickleError) -> Int {
      try take(count).reversed().reduce(0) { $0 << 8 | Int($1) }
    }
    func text(_ bytes: ArraySlice<UInt8>) throws(PickleError) -> String {
      guard let text = String(validating: bytes, as: UTF8.self) else {
        throw fault("a string is no UTF-8")
      }
      return text
    }
    func line() throws(PickleError) -> String {
      guard let end = bytes[at...].firstIndex(of: UInt8(ascii: "\n")) else {
        throw fault("a name has no end")
      }
      let name = try text(take(end - at))
      at += 1
      return name
    }
    func push(_ value: PickledValue) { stack.append(.value(value)) }
    func pop() throws(PickleError) -> PickledValue {
      guard case .value(let value)? = stack.popLast() else { throw fault("the stack is empty") }
      return value
    }
    func popToMark() throws(PickleError) -> [PickledValue] {
      var values: [PickledValue] = []
      while case .value(let value)? = stack.last {
        values.append(value)
        stack.removeLast()
      }
      guard stack.popLast() != nil else { throw fault("a mark is missing") }
      values.reverse()
      return values
    }
    func container(
      _ kind: PickledValue.Kind, _ depth: Int, of values: [PickledValue]
    ) throws(PickleError) -> PickledValue {
      let depth = max(depth, 1 + (values.map(\.depth).max() ?? 0))
      guard depth <= Self.depthMax else {
        throw fault("containers are nested deeper than \(Self.depthMax)")
      }
      return PickledValue(kind, depth: depth)
    }
    func tuple(_ values: [PickledValue]) throws(PickleError) {
      push(try container(.tuple(values), 1, of: values))
    }
    func remember(_ key: Int) throws(PickleError) {
      guard case .value(let value)? = stack.last else {
        throw fault("there is nothing to remember")
      }
      memo[key] = value.isContainer ? .container : .value(value)
    }
    func recall(_ key: Int) throws(PickleError) {
      switch memo[key] {
      case .value(let value): push(value)
      case .container: throw fault("it shares a list or dictionary, which no state dict does")
      case nil: throw fault("it refers to object \(key), which it does not have")
      }
    }
    func setItems(_ items: [PickledValue]) throws(PickleError) {
      guard items.count.isMultiple(of: 2) else { throw fault("a key has no value") }
      let dictionary = try pop()
      guard case .dictionary(let members) = dictionary.kind else {
        throw fault("items are set in what is not a dictionary")
      }
      for index in stride(from: 0, to: items.count, by: 2) {
        members.pairs.append((key: items[index], value: items[index + 1]))
      }
      push(try container(.dictionary(members), dictionary.depth, of: items))
    }
    func append(_ items: [PickledValue]) throws(PickleError) {
      let list = try pop()
      guard case .list(let members) = list.kind else {
        throw fault("items are appended to what is not a list")
      }
      members.values += items
      push(try container(.list(members), list.depth, of: items))
    }
    func global(_ module: String, _ name: String) throws(PickleError) {
      let global = "\(module) \(name)"
      guard knownGlobals.contains(global) else {
        throw fault(
          "it names \(module).\(name), which is not part of a state dict: it is not read, and never "
            + "called")
      }
      push(PickledValue(.global(global)))
    }

    while true {
      let start = at
      let opcode = try take(1).first!
      switch opcode {
      case 0x80:  // PROTO
        let version = try number(1)
        guard (2...5).contains(version) else { throw fault("its protocol is \(version)") }
      case 0x95: _ = try take(8)  // FRAME
      case UInt8(ascii: "."):  // STOP
        let result = try pop()
        guard stack.isEmpty else { throw fault("it ends with \(stack.count) values too many") }
        return result
      case UInt8(ascii: "("): stack.append(.mark)
      case UInt8(ascii: "N"): push(PickledValue(.none))
      case 0x88: push(PickledValue(.bool(true)))
      case 0x89: push(PickledValue(.bool(false)))
      case UInt8(ascii: "K"): push(PickledValue(.integer(try number(1))))
      case UInt8(ascii: "M"): push(PickledValue(.integer(try number(2))))
      case UInt8(ascii: "J"):
        push(PickledValue(.integer(Int(Int32(truncatingIfNeeded: try number(4))))))
      case 0x8A:  // LONG1
        let count = try number(1)
        guard count <= 8 else { throw fault("an integer has \(8 * count) bits, at most 64") }
        let value = try number(count)
        let unused = 64 - 8 * count
        push(PickledValue(.integer(count == 0 ? 0 : (value << unused) >> unused)))
      case UInt8(ascii: "G"):  // BINFLOAT, big-endian
        let bits = try take(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        push(PickledValue(.real(Double(bitPattern: bits))))
      case UInt8(ascii: "X"): push(PickledValue(.string(try text(take(try number(4))))))
      case 0x8C: push(PickledValue(.string(try text(take(try number(1))))))
      case UInt8(ascii: ")"): try tuple([])
      case 0x85: try tuple([try pop()])
      case 0x86:
        let last = try pop()
        try tuple([try pop(), last])
      case 0x87:
        let last = try pop()
        let middle = try pop()
        try tuple([try pop(), middle, last])
      case UInt8(ascii: "t"): try tuple(try popToMark())
      case UInt8(ascii: "]"): push(PickledValue(.list(.init()), depth: 1))
      case UInt8(ascii: "a"): try append([try pop()])
      case UInt8(ascii: "e"): try append(try popToMark())
      case UInt8(ascii: "}"): push(PickledValue(.dictionary(.init()), depth: 1))
      case UInt8(ascii: "s"):
        let value = try pop()
        try setItems([try pop(), value])
      case UInt8(ascii: "u"): try setItems(try popToMark())
      case UInt8(ascii: "q"): try remember(try number(1))
      case UInt8(ascii: "r"): try remember(try number(4))
      case 0x94: try remember(memo.count)  // MEMOIZE
      case UInt8(ascii: "h"): try recall(try number(1))
      case UInt8(ascii: "j"): try recall(try number(4))
      case UInt8(ascii: "c"):
        let module = try line()
        try global(module, try line())
      case 0x93:  // STACK_GLOBAL
        let name = try pop()
        guard let name = name.string, let module = try pop().string else {
          throw fault("a global has no name")
        }
        try global(module, name)
      case UInt8(ascii: "Q"): push(try persistent(try pop()))
      case UInt8(ascii: "R"):
        guard let arguments = try pop().tuple, let name = try pop().global else {
          throw fault("a call is of no global or has no tuple of arguments")
        }
        if name == "collections OrderedDict" {
          guard arguments.isEmpty else { throw fault("an OrderedDict is made of arguments") }
          push(PickledValue(.dictionary(.init()), depth: 1))
        } else {
          push(try call(name, arguments))
        }
      case UInt8(ascii: "b"):
        // A state dict has attributes, its _metadata; they say nothing of tensors.
        let state = try pop()
        guard state.members != nil, case .value(let target)? = stack.last, target.members != nil
        else { throw fault("attributes are set of what is not a dictionary") }
      default:
        at = start
        throw fault("opcode 0x\(String(opcode, radix: 16)) is none that a state dict needs")
      }
    }
  }
}
