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

// Dependencies run downwards only: each module names the modules below it, never one beside or above.
let package = Package(
  name: "granule",
  products: [.executable(name: "granule", targets: ["granule"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
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

    // C: the hot loops, and what protoc-c makes of the wire contract.
    .target(
      name: "CKernels",
      cSettings: [
        // Fused multiply-adds are written out, so that every version gives the same bits; without
        // errno the compiler vectorises square roots. The thread sanitizer must leave alone what
        // chooses a version: that runs before the sanitizer has started.
        .unsafeFlags([
          "-ffp-contract=off", "-fno-math-errno", "-fno-sanitize=thread", "-Wall", "-Wextra",
          "-Werror",
        ])
      ]),
    .target(
      name: "CGranuleProto", dependencies: ["CProtobufC"], path: "proto",
      exclude: ["granule.proto", "event.proto", "generate"], sources: ["generated"],
      publicHeadersPath: "generated/include"),

    // Dictionaries.
    .target(name: "StrictJSON", dependencies: ["CJansson"], swiftSettings: strict),
    .target(name: "Tensors", dependencies: ["CKernels", "StrictJSON"], swiftSettings: strict),
    .target(
      name: "SparseAutoencoder", dependencies: ["Tensors", "CKernels", "StrictJSON"],
      swiftSettings: strict),
    .target(
      name: "Interchange",
      dependencies: ["SparseAutoencoder", "Tensors", "StrictJSON", "CLibZip"],
      swiftSettings: strict),
    .target(
      name: "ModelRepository",
      dependencies: ["SparseAutoencoder", "Tensors", "StrictJSON", "CLibCrypto"],
      swiftSettings: strict),

    // The language model whose activations dictionaries are made of.
    .target(
      name: "LanguageModel", dependencies: ["Tensors", "CKernels", "COpenBLAS", "StrictJSON"],
      swiftSettings: strict),

    // The network.
    .target(name: "Wire", dependencies: ["CGranuleProto", "CProtobufC"], swiftSettings: strict),
    .target(name: "EventLoop", dependencies: ["CLibUV"], swiftSettings: strict),
    .target(name: "HTTP", dependencies: ["CMicroHTTPD", "EventLoop"], swiftSettings: strict),
    .target(name: "Client", dependencies: ["Wire", "EventLoop"], swiftSettings: strict),
    .target(
      name: "Serve",
      dependencies: [
        "Wire", "EventLoop", "HTTP", "ModelRepository", "SparseAutoencoder", "Tensors", "CKernels",
        "CMalloc", logging,
      ],
      path: "serve", swiftSettings: strict),

    // Making dictionaries.
    .target(
      name: "Training",
      dependencies: [
        "LanguageModel", "ModelRepository", "SparseAutoencoder", "Tensors", "CKernels", "COpenBLAS",
        "StrictJSON", "CGranuleProto", "CProtobufC",
      ],
      path: "training", swiftSettings: strict),

    .executableTarget(
      name: "granule",
      dependencies: [
        "Serve", "Training", "Client", "Interchange", "LanguageModel", "ModelRepository",
        "SparseAutoencoder", "Tensors", "CKernels", "COpenBLAS", "StrictJSON", "Wire", "EventLoop",
        argumentParser,
        logging,
      ],
      swiftSettings: strict),

    // Tests mirror the modules.
    .testTarget(
      name: "StrictJSONTests", dependencies: ["StrictJSON", "CJansson"], swiftSettings: strict),
    .testTarget(
      name: "TensorsTests", dependencies: ["Tensors", "StrictJSON", "CKernels", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "SparseAutoencoderTests",
      dependencies: ["SparseAutoencoder", "Tensors", "StrictJSON", "CKernels", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "InterchangeTests",
      dependencies: ["Interchange", "SparseAutoencoder", "Tensors", "StrictJSON", "TestSupport"],
      exclude: ["Fixtures"], swiftSettings: strict),
    .testTarget(
      name: "ModelRepositoryTests",
      dependencies: ["ModelRepository", "SparseAutoencoder", "Tensors", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "LanguageModelTests",
      dependencies: ["LanguageModel", "Tensors", "StrictJSON", "CKernels", "TestSupport"],
      swiftSettings: strict),
    .testTarget(
      name: "TrainingTests",
      dependencies: [
        "Training", "LanguageModel", "SparseAutoencoder", "Tensors", "StrictJSON", "CKernels",
        "TestSupport",
      ],
      exclude: ["Fixtures"], swiftSettings: strict),
    .testTarget(
      name: "CommandLineTests",
      dependencies: [
        "granule", "Client", "EventLoop", "ModelRepository", "SparseAutoencoder", "StrictJSON",
        "Tensors", "TestSupport", "Wire",
      ],
      swiftSettings: strict),
    .target(
      name: "TestSupport", dependencies: ["LanguageModel", "SparseAutoencoder", "Tensors"],
      path: "Tests/TestSupport",
      swiftSettings: strict),
    // What the fuzzer runs, and the replay of its corpora.
    .target(
      name: "FuzzTargets",
      dependencies: [
        "Interchange", "LanguageModel", "ModelRepository", "SparseAutoencoder", "StrictJSON",
        "Tensors", "TestSupport", "Training", "Wire",
      ],
      path: "Tests/FuzzTargets", swiftSettings: strict),
    .testTarget(
      name: "FuzzTests", dependencies: ["FuzzTargets"], exclude: ["Corpora"],
      swiftSettings: strict),
    .testTarget(name: "WireTests", dependencies: ["Wire"], swiftSettings: strict),
    .testTarget(
      name: "EventLoopTests", dependencies: ["EventLoop", "TestSupport"], swiftSettings: strict),
    .testTarget(
      name: "ServeTests",
      dependencies: [
        "Serve", "Client", "Wire", "EventLoop", "ModelRepository", "SparseAutoencoder", "Tensors",
        "TestSupport", logging,
      ],
      swiftSettings: strict),
  ]
)

// The fuzzer links libFuzzer, so only scripts/fuzz builds it.
if Context.environment["GRANULE_FUZZ"] != nil {
  package.targets.append(
    .executableTarget(
      name: "fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzz", swiftSettings: strict))
}
