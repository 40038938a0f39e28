// swift-tools-version: 6.2
import PackageDescription

// A program outside Granule's tree that embeds its libraries. scripts/check-embedding copies it to a
// temporary folder and sets GRANULE_CHECKOUT to the tree that it depends on.
let checkout = Context.environment["GRANULE_CHECKOUT"] ?? "../.."
let identity = checkout.split(separator: "/").last.map { $0.lowercased() } ?? ""

let package = Package(
  name: "embedding",
  dependencies: [.package(path: checkout)],
  targets: [
    // Targets of names that rooms of Granule have, too.
    .target(name: "Files"),
    .target(name: "Server"),
    .executableTarget(
      name: "Embedding",
      dependencies: [
        "Files", "Server", .product(name: "Granule", package: identity),
        .product(name: "GranuleServer", package: identity),
        .product(name: "GranuleClient", package: identity),
        .product(name: "GranuleTraining", package: identity),
      ]),
  ]
)
