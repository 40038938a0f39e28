package import ArgumentParser

/// How a command prints its result.
package struct ResultOptions: ParsableArguments {
  @Flag(help: "Print the result as JSON, without progress.")
  package var json = false

  package init() {}
}

/// The activations that a command measures on.
package struct ActivationOptions: ParsableArguments {
  @Option(
    parsing: .upToNextOption,
    help: "Files or folders of activations. Default: those that the run held out.")
  package var activations: [String] = []
  @Option(help: "Range of sequences to use, such as 36-39. Default: all.")
  package var sequences: SequenceRange?

  package init() {}
}
