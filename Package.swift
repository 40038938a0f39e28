// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .treatAllWarnings(as: .error),
]
let argumentParser = Target.Dependency.product(
  name: "ArgumentParser", package: "swift-argument-parser")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let deques = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let histograms = Target.Dependency.product(name: "Histogram", package: "hdrhistogram-swift")
let heaps = Target.Dependency.product(name: "HeapModule", package: "swift-collections")

/// A module of this package. Modules carry the package's name, since SwiftPM wants target names to be
/// unique among all packages of a build: `Sources/Foundations/Files` is the module GranuleFiles.
func module(_ folder: String, _ dependencies: [Target.Dependency], as name: String? = nil) -> Target
{
  .target(
    name: name ?? "Granule\(folder.split(separator: "/").last!)", dependencies: dependencies,
    path: folder, swiftSettings: strict)
}

/// The tests of the module of that name, in Tests/<Name>Tests.
func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: dependencies, exclude: exclude, swiftSettings: strict)
}

// Dependencies run downwards only: each module names the modules below it, never one beside or above.
let package = Package(
  name: "granule",
  products: [
    // Libraries for programs that embed Granule; Tests/Embedding is one.
    .library(name: "Granule", targets: ["Granule"]),
    .library(name: "GranuleClient", targets: ["GranuleClient"]),
    .library(name: "GranuleServer", targets: ["GranuleServer"]),
    .library(name: "GranuleTraining", targets: ["GranuleTraining"]),
    .executable(name: "granule", targets: ["GranuleCommand"]),
    .executable(name: "granule-bench", targets: ["GranuleBench"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
  ],
  targets: [
    // System libraries, from Debian's -dev packages.
    .systemLibrary(name: "CLibUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
    .systemLibrary(
      name: "CProtobufC", pkgConfig: "libprotobuf-c", providers: [.apt(["libprotobuf-c-dev"])]),
    .systemLibrary(
      name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
    .systemLibrary(name: "CJansson", pkgConfig: "jansson", providers: [.apt(["libjansson-dev"])]),
    .systemLibrary(name: "CLibCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
    .systemLibrary(
      name: "CMicroHTTPD", pkgConfig: "libmicrohttpd",
      providers: [.apt(["libmicrohttpd-dev"])]),
    .systemLibrary(name: "CLibZip", pkgConfig: "libzip", providers: [.apt(["libzip-dev"])]),
    // glibc's allocator, beyond what Swift's own module of glibc has.
    .systemLibrary(name: "CMalloc"),
    // Which cores a thread may run on, likewise.
    .systemLibrary(name: "CSched"),

    // C: the hot loops, and what protoc-c makes of the wire contract.
    .target(name: "CGranuleKernels", path: "Sources/Foundations/CKernels"),
    .target(
      name: "CGranuleProto", dependencies: ["CProtobufC"], path: "proto",
      exclude: ["granule.proto", "event.proto", "generate"], sources: ["generated"],
      publicHeadersPath: "generated/include"),

    // Foundations: know nothing of dictionaries.
    module("Sources/Foundations/BLAS", ["COpenBLAS"]),
    module("Sources/Foundations/Files", ["CJansson", "CLibCrypto"]),
    module("Sources/Foundations/Threads", ["CSched"]),
    module("Sources/Foundations/Statistics", ["CGranuleKernels", "GranuleThreads"]),
    module("Sources/Foundations/Tensors", ["CGranuleKernels", "GranuleFiles", "GranuleThreads"]),

    // Dictionaries.
    module("Sources/Dictionary", ["GranuleTensors", "GranuleFiles", "CGranuleKernels"]),
    module(
      "Sources/Encoder",
      ["GranuleDictionary", "GranuleTensors", "GranuleThreads", "CGranuleKernels"]),
    module(
      "Sources/Interchange",
      ["GranuleDictionary", "GranuleTensors", "GranuleFiles", "CLibZip"]),
    module("Sources/Repository", ["GranuleDictionary", "GranuleTensors", "GranuleFiles"]),
    module(
      "Sources/Products/Granule",
      [
        "GranuleEncoder", "GranuleDictionary", "GranuleRepository", "GranuleTensors",
        "GranuleFiles",
      ], as: "Granule"),

    // The language model whose activations dictionaries are made of.
    module(
      "Sources/LanguageModel",
      [
        "GranuleDictionary", "GranuleTensors", "GranuleThreads", "GranuleFiles", "GranuleBLAS",
        "CGranuleKernels", heaps,
      ]),

    // What can be asked and answered, in any protocol; the native protocol's messages; the network.
    module("serve/Calls", ["GranuleTensors"]),
    module("Sources/Wire", ["GranuleCalls", "GranuleTensors", "CGranuleProto", "CProtobufC"]),
    module("Sources/Transport", ["GranuleThreads", "CLibUV"]),
    module(
      "Sources/Client",
      [
        "GranuleWire", "GranuleCalls", "GranuleTransport", "GranuleThreads", "GranuleTensors",
        "GranuleFiles",
      ]),

    // Serving: the engine knows no protocol, the protocols know no sockets but HTTP's own.
    module(
      "serve/Engine",
      [
        "GranuleCalls", "GranuleRepository", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors", "GranuleThreads", "CMalloc", logging, deques, heaps,
      ]),
    module("serve/Protocols/Native", ["GranuleCalls", "GranuleWire", "GranuleTensors"]),
    module(
      "serve/Protocols/HTTP",
      ["GranuleEngine", "GranuleCalls", "GranuleTransport", "CMicroHTTPD"]),
    module(
      "serve/Server",
      [
        "GranuleEngine", "GranuleNative", "GranuleHTTP", "GranuleCalls", "GranuleWire",
        "GranuleTransport", "GranuleThreads", logging,
      ]),

    // Making dictionaries: source → batch → step → checkpoint → dictionary.
    module("training/Errors", []),
    module(
      "training/Data",
      [
        "GranuleErrors", "GranuleLanguageModel", "GranuleDictionary", "GranuleTensors",
        "GranuleStatistics", "GranuleThreads", "GranuleFiles", "CGranuleKernels",
      ]),
    module("training/Objective", []),
    module(
      "training/Step",
      [
        "GranuleObjective", "GranuleEncoder", "GranuleDictionary", "GranuleTensors",
        "GranuleStatistics", "GranuleThreads", "CGranuleKernels",
      ]),
    module(
      "training/Evaluation",
      [
        "GranuleErrors", "GranuleData", "GranuleLanguageModel", "GranuleEncoder",
        "GranuleDictionary",
        "GranuleTensors", "GranuleStatistics", "GranuleThreads", "GranuleFiles", "GranuleBLAS",
        "CGranuleKernels",
      ]),
    module(
      "training/Run",
      [
        "GranuleErrors", "GranuleData", "GranuleObjective", "GranuleStep", "GranuleEvaluation",
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "GranuleStatistics",
        "GranuleThreads", "GranuleFiles",
        "CGranuleProto", "CProtobufC",
      ]),
    module(
      "training/Distillation",
      [
        "GranuleErrors", "GranuleData", "GranuleObjective", "GranuleEvaluation", "GranuleRun",
        "GranuleLanguageModel", "GranuleRepository", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors",
        "GranuleStatistics", "GranuleThreads", "GranuleFiles", "CGranuleKernels",
      ]),
    module(
      "Sources/Products/GranuleTraining",
      [
        "GranuleErrors", "GranuleData", "GranuleObjective", "GranuleEvaluation", "GranuleRun",
        "GranuleDistillation", "GranuleDictionary",
      ], as: "GranuleTraining"),

    // The command line.
    module(
      "Sources/Reports",
      ["GranuleTraining", "GranuleLanguageModel", "GranuleDictionary", "GranuleFiles"]),
    module(
      "Sources/CommandLine",
      [
        "GranuleBLAS", "GranuleClient", "GranuleTransport", "GranuleThreads", "GranuleEncoder",
        "GranuleFiles",
        argumentParser,
      ]),
    .executableTarget(
      name: "GranuleCommand",
      dependencies: [
        "GranuleCommandLine", "GranuleReports", "GranuleServer", "GranuleTraining", "GranuleStep",
        "GranuleClient", "GranuleInterchange", "GranuleLanguageModel", "GranuleRepository",
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "GranuleFiles", "GranuleWire",
        "GranuleTransport",
        argumentParser, logging,
      ],
      path: "Sources/granule", swiftSettings: strict),
    .executableTarget(
      name: "GranuleBench",
      dependencies: [
        "GranuleCommandLine", "GranuleReports", "GranuleServer", "GranuleTraining", "GranuleStep",
        "GranuleClient", "GranuleLanguageModel", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors",
        "GranuleThreads", "GranuleFiles", "GranuleBLAS", "CGranuleKernels", "GranuleWire",
        "GranuleStatistics", argumentParser, histograms,
      ],
      path: "Sources/granule-bench", swiftSettings: strict),

    // Tests mirror the modules.
    tests("Kernels", ["CGranuleKernels", "CKernelVersions", "TestSupport"]),
    tests("BLAS", ["GranuleBLAS", "TestSupport"]),
    tests("Threads", ["GranuleThreads", "CSched"]),
    tests("Files", ["GranuleFiles", "CJansson", "TestSupport"]),
    tests("Statistics", ["GranuleStatistics", "TestSupport"]),
    tests("Tensors", ["GranuleTensors", "GranuleFiles", "CGranuleKernels", "TestSupport"]),
    tests("Dictionary", ["GranuleDictionary", "GranuleTensors", "GranuleFiles", "TestSupport"]),
    tests(
      "Encoder",
      [
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "GranuleThreads", "GranuleFiles",
        "CGranuleKernels", "TestSupport",
      ]),
    tests(
      "Interchange",
      [
        "GranuleInterchange", "GranuleEncoder", "GranuleDictionary", "GranuleTensors",
        "GranuleFiles", "TestSupport",
      ],
      exclude: ["Fixtures"]),
    tests(
      "Repository",
      ["GranuleRepository", "GranuleDictionary", "GranuleTensors", "GranuleFiles", "TestSupport"]),
    tests(
      "LanguageModel",
      [
        "GranuleLanguageModel", "GranuleDictionary", "GranuleTensors", "GranuleThreads",
        "GranuleFiles",
        "CGranuleKernels", "TestSupport",
      ]),
    tests(
      "Data",
      [
        "GranuleData", "GranuleErrors", "GranuleLanguageModel", "GranuleDictionary",
        "GranuleTensors", "GranuleFiles", "CGranuleKernels", "TestSupport",
      ]),
    tests("Objective", ["GranuleObjective"]),
    tests(
      "Step",
      [
        "GranuleStep", "GranuleObjective", "GranuleEncoder", "GranuleDictionary", "GranuleTensors",
        "GranuleThreads", "GranuleFiles", "TestSupport",
      ], exclude: ["Fixtures"]),
    tests(
      "Evaluation",
      [
        "GranuleEvaluation", "GranuleData", "GranuleErrors", "GranuleLanguageModel",
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "GranuleFiles", "TestSupport",
      ], exclude: ["Fixtures"]),
    tests(
      "Run",
      [
        "GranuleRun", "GranuleEvaluation", "GranuleObjective", "GranuleData", "GranuleErrors",
        "GranuleDictionary", "GranuleTensors", "GranuleFiles", "TestSupport",
      ], exclude: ["Fixtures"]),
    tests(
      "Distillation",
      [
        "GranuleDistillation", "GranuleRun", "GranuleStep", "GranuleObjective", "GranuleData",
        "GranuleErrors",
        "GranuleLanguageModel", "GranuleRepository", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors",
        "GranuleFiles", "TestSupport",
      ], exclude: ["Fixtures"]),
    tests("Calls", ["GranuleCalls"]),
    tests("Wire", ["GranuleWire"]),
    tests("Transport", ["GranuleTransport", "GranuleThreads", "TestSupport"]),
    tests(
      "Client",
      [
        "GranuleClient", "GranuleServer", "GranuleWire", "GranuleTransport", "GranuleRepository",
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "TestSupport", logging,
      ]),
    tests(
      "Engine",
      [
        "GranuleEngine", "GranuleCalls", "GranuleRepository", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors", "GranuleThreads", "TestSupport", logging,
      ]),
    tests("Native", ["GranuleNative", "GranuleWire", "GranuleTensors"]),
    tests(
      "HTTP", ["GranuleHTTP", "GranuleEngine", "GranuleCalls", "GranuleTransport", "TestSupport"]),
    tests(
      "Server",
      [
        "GranuleServer", "GranuleEngine", "GranuleClient", "GranuleWire", "GranuleTransport",
        "GranuleRepository", "GranuleEncoder", "GranuleDictionary", "GranuleTensors",
        "GranuleThreads",
        "GranuleFiles", "TestSupport", logging,
      ]),
    tests(
      "CommandLine",
      [
        "GranuleCommand", "GranuleBench", "GranuleClient", "GranuleTransport", "GranuleRepository",
        "GranuleEncoder", "GranuleDictionary", "GranuleTensors", "GranuleFiles", "GranuleWire",
        "TestSupport",
        argumentParser,
      ]),
    tests(
      "Bench",
      [
        "GranuleBench", "GranuleEncoder", "GranuleDictionary", "GranuleFiles", "TestSupport",
        argumentParser,
      ]),
    tests("Reports", ["GranuleReports"]),
    // The versions of each kernel, one by one.
    .target(
      name: "CKernelVersions", dependencies: ["CGranuleKernels"],
      path: "Tests/KernelVersions"),
    .target(
      name: "TestSupport",
      dependencies: [
        "GranuleLanguageModel", "GranuleBLAS", "GranuleEncoder", "GranuleDictionary",
        "GranuleTensors",
        "GranuleFiles",
      ],
      path: "Tests/TestSupport", swiftSettings: strict),
    // What the fuzzer runs, and the replay of its corpora.
    .target(
      name: "FuzzTargets",
      dependencies: [
        "GranuleInterchange", "GranuleLanguageModel", "GranuleRepository", "GranuleEncoder",
        "GranuleDictionary",
        "GranuleTensors", "GranuleThreads", "GranuleFiles", "GranuleTraining", "GranuleWire",
        "TestSupport",
      ],
      path: "Tests/FuzzTargets", swiftSettings: strict),
    tests("Fuzz", ["FuzzTargets"], exclude: ["Corpora"]),
    // The rules of CONTRIBUTING.md, as far as a machine can check them.
    tests("Tidy", []),
  ]
)

// The fuzzer links libFuzzer, so only scripts/fuzz builds it.
if Context.environment["GRANULE_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzz", swiftSettings: strict))
}
